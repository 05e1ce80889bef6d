"""The settings and phantoms to which a training's work folder belongs.

A training goes on from the phantoms and checkpoints in its folder. Those of other settings, or of a
version of limn that paints other mice, must not be mixed with new ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from limn.domain.errors import ConfigWrong
from limn.domain.files import write_durably
from limn.lab.train.localiser import LocaliserRecipe
from limn.lab.train.onlooker import OrientRecipe
from limn.lab.train.patches import make_training_case
from limn.lab.train.recipe import Recipe

NAME = "recipe.json"
# One with a neighbour, one with contrast; small enough to be painted at every start.
SAMPLE_SEEDS = (8, 7)
SAMPLE = Recipe(spacing_mm=1.2, shape_zyx=(32, 24, 26))
# HU. Another processor may round a few voxels differently; other code paints other mice.
SAME_WITHIN = 0.05


def claim(
    work: Path,
    recipe: Recipe,
    orient: OrientRecipe,
    locate: LocaliserRecipe,
    report: Callable[[str], None],
) -> None:
    """Write the settings into a new folder, or compare them with those of an old one.

    An early version of limn wrote phantoms without settings. Such a folder is used, with a warning.

    Raises
    ------
    ConfigWrong
        If the folder belongs to other settings; the text names every difference.
    """
    path = work / NAME
    wanted = _wanted(recipe, orient, locate)
    if path.exists():
        different = list(_differences(_read(path), wanted))
        if different:
            msg = (
                f"{work} belongs to other settings: {'; '.join(different)}; give another folder, "
                "or delete this one to start again"
            )
            raise ConfigWrong(msg)
        return
    if any(work.glob("*/*.npz")):
        report(f"WARNING: {work} does not say to which settings it belongs; these are assumed")
    write_durably(path, (json.dumps(wanted, indent=1) + "\n").encode())


def _wanted(recipe: Recipe, orient: OrientRecipe, locate: LocaliserRecipe) -> dict[str, Any]:
    wanted = {
        "recipe": asdict(recipe),
        "orient": asdict(orient),
        "locate": asdict(locate),
        "phantoms": {str(seed): _digest(seed) for seed in SAMPLE_SEEDS},
    }
    # JSON turns tuples into lists, so compare what it gives back.
    from_json: dict[str, Any] = json.loads(json.dumps(wanted))
    return from_json


def _digest(seed: int) -> list[float]:
    """Mean HU of every slice of a small phantom, and the means of its truth."""
    case = make_training_case(seed, SAMPLE)
    means = [case.hu_zyx.mean(axis=(1, 2)), case.shares.mean(axis=(2, 3)).ravel()]
    return [round(float(mean), 3) for mean in np.concatenate(means)]


def _read(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path} can't be read ({error}); give another folder, or delete this one"
        raise ConfigWrong(msg) from error
    return kept if isinstance(kept, dict) else {}


def _differences(kept: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
    for part in ("recipe", "orient", "locate"):
        before, now = kept.get(part, {}), wanted[part]
        for name in before | now:
            # A recipe of an earlier limn had no choice of organs.
            if (before.get(name) or None) != (now.get(name) or None):
                shown = [json.dumps(each.get(name)) for each in (before, now)]
                yield f"{part}.{name} was {shown[0]}, is {shown[1]}"
    if not _alike(kept.get("phantoms", {}), wanted["phantoms"]):
        yield "the phantoms were painted by another version of limn"


def _alike(kept: dict[str, list[float]], wanted: dict[str, list[float]]) -> bool:
    return kept.keys() == wanted.keys() and all(
        len(kept[seed]) == len(means) and np.allclose(kept[seed], means, rtol=0, atol=SAME_WITHIN)
        for seed, means in wanted.items()
    )
