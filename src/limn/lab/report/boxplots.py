"""Box plots of a study, as the paper's Supplementary Figures S2 to S4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from limn.domain.geometry import FloatArray
from limn.domain.scan import Organ
from limn.lab.measure.scores import Score
from limn.lab.report.summary import accuracy_values, conformity_values
from limn.lab.words import MEASURES, ORGAN_WORDS, SETS, ComparedStructure, System, in_order

COLOURS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#bbbbbb")
DOTS_PER_INCH = 110
BOX_WIDTH = 0.8
# Past this factor between the largest and the median a straight axis hides every box.
WIDE = 20.0

MARKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


def draw_accuracy(scores: Sequence[Score], test_set: str, path: Path) -> bool:
    """DSC, MSD and 95p HD of every organ and system; False if there is nothing to draw."""
    found = accuracy_values(scores, test_set)
    if not found:
        return False
    systems = in_order({system for _, system, _ in found})
    figure = Figure(figsize=(9.0, 3.2 * len(MEASURES)), layout="constrained")
    for panel, (measure, word) in enumerate(MEASURES.items(), start=1):
        axes = figure.add_subplot(len(MEASURES), 1, panel)
        values = {(organ, own): v for (organ, own, which), v in found.items() if which == measure}
        _boxes(axes, values, [organ.value for organ in Organ], systems)
        axes.set_ylabel(word)
    _finish(figure, systems, SETS[test_set], path)
    return True


def draw_conformity(scores: Sequence[Score], test_set: str, path: Path) -> bool:
    """The conformity index of every structure and system; False if there is nothing to draw."""
    found = conformity_values(scores, test_set)
    if not found:
        return False
    systems = in_order({system for _, system in found})
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    axes = figure.add_subplot(1, 1, 1)
    _boxes(axes, found, [structure.value for structure in ComparedStructure], systems)
    axes.set_ylabel("generalised conformity index")
    _finish(figure, systems, SETS[test_set], path)
    return True


def _boxes(
    axes: Axes,
    values: Mapping[tuple[str, str], FloatArray],
    organs: Sequence[str],
    systems: Sequence[System],
) -> None:
    """A group of boxes for each organ, one for each system: median, quartiles, 1.5 of their gap."""
    step = BOX_WIDTH / len(systems)
    for k, system in enumerate(systems):
        places = [g - BOX_WIDTH / 2 + (k + 0.5) * step for g in range(len(organs))]
        drawn = [
            (place, own)
            for place, organ in zip(places, organs, strict=True)
            if len(own := values.get((organ, system.key), ()))
        ]
        if not drawn:
            continue
        axes.boxplot(
            [own for _, own in drawn],
            positions=[place for place, _ in drawn],
            widths=0.85 * step,
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": _colour(k), "linewidth": 0.6},
            medianprops={"color": "black"},
            flierprops={"markersize": 2.5},
        )
    together = sorted(v for own in values.values() for v in own.tolist())
    if together and together[0] >= 0 and together[-1] > WIDE * together[len(together) // 2]:
        axes.set_yscale("symlog", linthresh=1.0)
        # Where most boxes lie, below 1, the axis is linear.
        axes.set_yticks([mark for mark in MARKS if mark <= 1.2 * together[-1]])
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(range(len(organs)), [ORGAN_WORDS[organ] for organ in organs])
    axes.grid(axis="y", linewidth=0.3)


def _finish(figure: Figure, systems: Sequence[System], title: str, path: Path) -> None:
    handles = [
        Patch(facecolor=_colour(k), label=f"{own.algorithm} {own.model_here}".strip())
        for k, own in enumerate(systems)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize="small")
    figure.suptitle(title)
    # Without the date and the version the same scores give the same file.
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})


def _colour(k: int) -> str:
    return COLOURS[k % len(COLOURS)]
