"""Draws box plots of a study, as the paper's Supplementary Figures S2 to S4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from limn.domain.files import replacement
from limn.domain.geometry import FloatArray
from limn.lab.measure.scores import Score
from limn.lab.report.summary import accuracy_values, conformity_values
from limn.lab.words import (
    MEASURES,
    SETS,
    System,
    in_order,
    organs_in_order,
    structures_in_order,
    words_of,
)

COLOURS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#bbbbbb")
DOTS_PER_INCH = 110
BOX_WIDTH = 0.8
# If the largest value exceeds the median by this factor, a linear axis flattens every box.
MAX_LINEAR_RATIO = 20.0
TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


def draw_accuracy(scores: Sequence[Score], test_set: str, path: Path) -> bool:
    """Draw DSC, MSD and 95p HD of every organ and system; return False if there is no score."""
    values_of = accuracy_values(scores, test_set)
    if not values_of:
        return False
    systems = in_order({system for _, system, _ in values_of})
    figure = Figure(figsize=(9.0, 3.2 * len(MEASURES)), layout="constrained")
    for panel, (measure, word) in enumerate(MEASURES.items(), start=1):
        axes = figure.add_subplot(len(MEASURES), 1, panel)
        values = {key[:2]: array for key, array in values_of.items() if key[2] == measure}
        _boxes(axes, values, organs_in_order({organ for organ, _ in values}), systems)
        axes.set_ylabel(word)
    _finish(figure, systems, SETS[test_set], path)
    return True


def draw_conformity(scores: Sequence[Score], test_set: str, path: Path) -> bool:
    """Draw the conformity index of every structure and system; return False if there is none."""
    values = conformity_values(scores, test_set)
    if not values:
        return False
    systems = in_order({system for _, system in values})
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    axes = figure.add_subplot(1, 1, 1)
    _boxes(axes, values, structures_in_order(name for name, _ in values), systems)
    axes.set_ylabel("generalised conformity index")
    _finish(figure, systems, SETS[test_set], path)
    return True


def _boxes(
    axes: Axes,
    values: Mapping[tuple[str, str], FloatArray],
    organs: Sequence[str],
    systems: Sequence[System],
) -> None:
    """A group of boxes per organ, one per system: median, quartiles, 1.5 interquartile ranges."""
    step = BOX_WIDTH / len(systems)
    for k, system in enumerate(systems):
        places = [g - BOX_WIDTH / 2 + (k + 0.5) * step for g in range(len(organs))]
        boxes = [
            (place, box)
            for place, organ in zip(places, organs, strict=True)
            if len(box := values.get((organ, system.key), ()))
        ]
        if not boxes:
            continue
        axes.boxplot(
            [box for _, box in boxes],
            positions=[place for place, _ in boxes],
            widths=0.85 * step,
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": _colour(k), "linewidth": 0.6},
            medianprops={"color": "black"},
            flierprops={"markersize": 2.5},
        )
    ordered = sorted(value for box in values.values() for value in box.tolist())
    if ordered and ordered[0] >= 0 and ordered[-1] > MAX_LINEAR_RATIO * ordered[len(ordered) // 2]:
        # Linear below 1, where most boxes lie.
        axes.set_yscale("symlog", linthresh=1.0)
        axes.set_yticks([tick for tick in TICKS if tick <= 1.2 * ordered[-1]])
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(range(len(organs)), [words_of(organ) for organ in organs])
    axes.grid(axis="y", linewidth=0.3)


def _finish(figure: Figure, systems: Sequence[System], title: str, path: Path) -> None:
    handles = [
        Patch(facecolor=_colour(k), label=f"{system.algorithm} {system.model_here}".strip())
        for k, system in enumerate(systems)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize="small")
    figure.suptitle(title)
    # Without matplotlib's version, equal scores give equal files.
    with replacement(path, ".png") as part:
        figure.savefig(part, dpi=DOTS_PER_INCH, metadata={"Software": None})


def _colour(k: int) -> str:
    return COLOURS[k % len(COLOURS)]
