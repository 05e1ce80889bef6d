"""What mirror images add: the same networks without and with them, on phantoms that nobody saw.

The embedded bundle was never shown a mirrored animal, so a fold of it is first taught some, then
contours every scan both ways. DSC, 95 % HD and seconds of each come into ``OUT/table.md``.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from side_by_side import native_trials, side_by_side

from limn.domain.folders import writable
from limn.domain.shipped import EMBEDDED_BUNDLE, MANIFEST
from limn.lab.train.folds import Course, train
from limn.lab.train.nnunet_folder import (
    ONLOOKER,
    intensities_of,
    mean_of_folds,
    save_fold,
    seal,
    write_plans,
)
from limn.lab.train.patches import TrainingCase, make_cases
from limn.lab.train.recipe import Recipe, going_on
from limn.segment.bundle.bundle import open_bundle, write_manifest
from limn.segment.engine.ensemble import Ensemble

PHANTOMS = 12
AXES = (0, 1, 2)


def with_mirror_images(cases: Sequence[TrainingCase]) -> list[TrainingCase]:
    """Every case and its seven mirror images; labels go with the organs. Views, not copies."""
    ways = list(product((1, -1), repeat=len(AXES)))
    return [
        TrainingCase(each.hu_zyx[::z, ::y, ::x], each.shares[:, ::z, ::y, ::x])
        for each in cases
        for z, y, x in ways
    ]


def taught(start: Path, out: Path, steps: int) -> Path:
    """A bundle of one fold that has learnt mirrored phantoms; goes on where it was killed."""
    folder = out / "bundle"
    if (folder / MANIFEST).exists():
        return folder
    recipe: Recipe = replace(going_on(start), phantoms=PHANTOMS, stem_phantoms=0)
    seeds = [recipe.first_seed + k for k in range(PHANTOMS)]
    cases = make_cases(seeds, recipe, out / "phantoms", lambda line: print(line, flush=True))
    intensities = intensities_of(start, recipe)
    course = Course("fold 0", 0, steps, recipe.learning_rate, out)
    weights = train(
        course,
        with_mirror_images(cases),
        intensities,
        recipe,
        mean_of_folds(start, 0, recipe),
        lambda line: print(line, flush=True),
    )
    write_plans(folder, recipe, intensities)
    save_fold(folder, 0, weights)
    shutil.copyfile(start / ONLOOKER, folder / ONLOOKER)
    seal(folder, replace(recipe, folds=1))
    head = (folder / MANIFEST).read_text(encoding="utf-8").split("\n[files]\n")[0]
    write_manifest(folder, head.replace("mirror_axes = []", f"mirror_axes = {list(AXES)}"))
    return folder


def main() -> None:
    """Teach, then score the scans that the folder does not hold yet; print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="work, scores and table; a killed run goes on there")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--scans", type=int, default=5, help="the first of the 35 native ones")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parsed = parser.parse_args()
    writable(parsed.out)
    torch.set_num_threads(parsed.threads)
    bundle = open_bundle(taught(EMBEDDED_BUNDLE, parsed.out, parsed.steps))
    ways = {
        "plain": Ensemble.load(bundle, "cpu", "fast"),
        "mirrored": Ensemble.load(bundle, "cpu", "fast", mirroring=True),
    }
    print(side_by_side(ways, native_trials(parsed.scans), parsed.out))


if __name__ == "__main__":
    main()
