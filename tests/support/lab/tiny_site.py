"""A tiny bundle and a site's data set of coarse phantoms, for adaptations that take seconds."""

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from limn.lab.data.dataset import import_folder
from limn.lab.phantoms.other_site import FIRST_SEED, GROUP, OtherSite, split_toml, write_site
from limn.lab.train.nnunet_folder import (
    LOCALISER,
    ONLOOKER,
    new_network,
    save_fold,
    seal,
    write_plans,
)
from limn.lab.train.recipe import Recipe
from tests.conftest import BUNDLE

RECIPE = Recipe(
    spacing_mm=0.9,
    shape_zyx=(44, 32, 34),
    patch_zyx=(24, 16, 16),
    features=(4, 8, 16),
    folds=2,
    stems=1,
)
INTENSITIES = {
    "mean": -300.0,
    "std": 300.0,
    "min": -1000.0,
    "max": 900.0,
    "median": -300.0,
    "percentile_00_5": -1000.0,
    "percentile_99_5": 900.0,
}
SITE = OtherSite(spacing_mm=0.8, size_mm=(40.0, 27.2, 28.8))


def tiny_bundle(folder: Path, organs: tuple[str, ...] = (), folds: int = 2) -> Path:
    """A sealed bundle of untrained folds; without organs it has the embedded one's four."""
    recipe = replace(RECIPE, organs=organs, folds=folds)
    write_plans(folder, recipe, INTENSITIES)
    for fold in range(folds):
        torch.manual_seed(fold)
        save_fold(folder, fold, new_network(recipe).state_dict())
    for name in (ONLOOKER, LOCALISER):
        shutil.copyfile(BUNDLE / name, folder / name)
    seal(folder, recipe)
    return folder


def tiny_site(folder: Path, groups: list[list[str]], testing: list[str]) -> Path:
    """A data set of the other site's mice at coarse voxels."""
    animals = [animal for group in groups for animal in group] + testing
    seeds = {animal: FIRST_SEED + k for k, animal in enumerate(animals)}
    scans, layout = write_site(folder / "site", SITE, seeds)
    split = folder / "split.toml"
    named = [[f"{GROUP}-{animal}" for animal in group] for group in groups]
    split.write_text(split_toml(named, [f"{GROUP}-{animal}" for animal in testing]))
    import_folder(scans, folder / "data", layout, split, lambda line: None)
    return folder / "data"
