"""The paper's network (Malimban 2022), which a CPU finds hard: limn against nnunetv2's predictor.

Its weights are random: they serve for time alone. So no fold can say that the chest's box cuts an
organ, where `fast` would move it or let it grow.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from engine import alone, labelled, limn_warm, predictor_warm, shape_of, timed

from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Volume
from limn.domain.shipped import EMBEDDED_BUNDLE
from limn.lab.train.nnunet_folder import new_network, plans
from limn.lab.train.recipe import Recipe
from limn.phantom.anatomy import conceive
from limn.phantom.scanner import random_scanner, scan
from limn.segment.bundle.bundle import open_bundle, write_manifest
from limn.segment.bundle.profile import ProfileName
from limn.segment.draw.animals.chest import box_around_chest, chest_stretches, find_chest
from limn.segment.draw.animals.choose import keep_one_animal
from limn.segment.engine import openvino_net
from limn.segment.engine.ensemble import Ensemble
from limn.segment.engine.localisation.localise import Localiser
from limn.segment.engine.localisation.orient import Finder
from limn.segment.engine.localisation.region import Region, at_least, region_of_shares
from limn.segment.engine.networks import load_fold
from limn.segment.engine.plans import read_plan

# Malimban 2022's plans: patch, five poolings, 32 to 320 features, 0.14 mm.
PAPER = Recipe(
    spacing_mm=0.14,
    shape_zyx=(180, 224, 320),
    patch_zyx=(128, 96, 192),
    features=(32, 64, 128, 256, 320, 320),
    folds=1,
)
PAPER_TILES = 24
ONLOOKER, LOCALISER = (EMBEDDED_BUNDLE / name for name in ("orient.pth", "localiser.pth"))
# What the embedded bundle has beside its folds.
PARTS = ("orient.pth", "localiser.pth", "sample.npz", "judge.npz")
# Two tiles of the paper's network; a whole scan of the paper's has 24, and five folds.
TWO_TILES = (128, 144, 192)


def limn_int8(
    bundle: Path, profile: ProfileName, hu: np.ndarray, mm: float, times: int
) -> tuple[list[float], str]:
    """The same in int8, whatever it does to the labels: random weights serve for time alone."""
    opened = open_bundle(bundle)
    plan = read_plan(opened)
    tile = np.random.default_rng(1).normal(0, 1, (1, 1, *plan.patch)).astype(np.float32)
    ranges = []
    for fold in opened.folds:
        weights = load_fold(opened, plan, fold).state_dict()
        ranges.append(openvino_net.measured(weights, plan.architecture, plan.patch, [tile])[0])
    ensemble = Ensemble.load(replace(opened, int8_ranges=tuple(ranges)), "cpu", profile)
    return labelled(ensemble, hu, mm, times)


def _chest(volume: Volume, ensemble: Ensemble) -> Region:
    """The box of the scan that all folds see in profile `fast`, if nothing in it is cut."""
    localiser, finder = Localiser.load(LOCALISER), Finder.load(ONLOOKER)
    located = keep_one_animal(volume, "largest")
    animal = np.ascontiguousarray(located.coarse_spl[located.around.slices])
    stretch = chest_stretches(animal, localiser)[0]
    lie = finder.find(animal, stretch)
    chest = find_chest(animal, lie, stretch, localiser)
    if chest is None:
        raise SystemExit("the localiser found no chest")
    grid, coarse_shape = volume.grid, located.coarse_spl.shape
    chest = chest.moved(located.around.low)
    box = box_around_chest(chest, coarse_shape, grid, lie, ensemble.tile_mm)
    organs = region_of_shares(box.organs, box.outer.shape, grid.spacing_mm.zyx)
    tile = tuple(round(mm / PAPER.spacing_mm) for mm in ensemble.tile_mm)
    return at_least(organs, (tile[0], tile[1], tile[2]), box.outer.shape).moved(box.outer.low)


def limn_chest(bundle: Path, hu: np.ndarray, mm: float, times: int) -> tuple[list[float], str]:
    """From a volume in memory to labels of the chest: it is found, then the folds see its box."""
    ensemble = Ensemble.load(open_bundle(bundle), "cpu", "paper")
    ensemble.warm_up()
    volume = Volume(hu, axial_grid(shape_of(hu), SpacingMm(mm, mm, mm), np.zeros(3)))
    seen = ""

    def once() -> None:
        nonlocal seen
        region = _chest(volume, ensemble)
        part = np.ascontiguousarray(hu[region.slices])
        grid = axial_grid(shape_of(part), SpacingMm(mm, mm, mm), np.zeros(3))
        prepared = ensemble.prepare(Volume(part, grid))
        tiles = 0

        def counted(done: int, total: int) -> None:
            nonlocal tiles
            tiles = total

        ensemble.label(prepared, ensemble.infer(prepared, counted))
        seen = f"{tiles} tiles of {' x '.join(map(str, region.shape))} voxels"

    return timed(times, once), f"{ensemble.description}, {seen}"


def paper_bundle(folder: Path, orientation: str = "SPL") -> Path:
    """The paper's network with random weights: they serve for time."""
    shutil.copytree(
        EMBEDDED_BUNDLE, folder, ignore=shutil.ignore_patterns("fold_*", "*.toml", *PARTS)
    )
    properties = json.loads((EMBEDDED_BUNDLE / "plans.json").read_text())[
        "foreground_intensity_properties_per_channel"
    ]["0"]
    (folder / "plans.json").write_text(json.dumps(plans(PAPER, properties, [180, 224, 320])))
    torch.manual_seed(0)
    (folder / "fold_0").mkdir()
    torch.save(
        {
            "network_weights": new_network(PAPER).state_dict(),
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": "3d_fullres"},
            "inference_allowed_mirroring_axes": None,
        },
        folder / "fold_0" / "checkpoint_final.pth",
    )
    head = (EMBEDDED_BUNDLE / "bundle.toml").read_text().split("\n[files]\n")[0]
    lines = []
    for line in head.splitlines():
        if line.startswith("folds"):
            lines.append("folds = [0]")
        elif line.startswith("orientation"):
            lines.append(f'orientation = "{orientation}"')
        elif line.startswith("spacing_mm"):
            lines.append("spacing_mm = [0.14, 0.14, 0.14]")
        elif line.partition(" ")[0] not in ("onlooker", "localiser", "sample", "judge"):
            lines.append(line)
    write_manifest(folder, "\n".join(lines))
    return folder


def bench_paper(folder: Path) -> dict[str, float]:
    """The paper's network: limn against nnunetv2's predictor."""
    random = paper_bundle(folder / "paper")
    two = np.asarray(np.random.default_rng(0).normal(-300, 300, TWO_TILES), dtype=np.float32)
    ours = alone(limn_warm, random, "paper", two, 0.14, 2)
    eight = alone(limn_int8, random, "paper", two, 0.14, 2)
    theirs = alone(predictor_warm, random, (0,), two, 0.14, 1)
    print("the paper's network, one fold, two tiles of 128x96x192 (24 and five folds: x 60):")
    for name, taken in (("limn paper", ours), ("in int8", eight), ("nnUNetPredictor", theirs)):
        whole_s = taken.best_s * PAPER_TILES / 2 * 5
        print(
            f"  {name:22} {taken.best_s:8.2f} s  {taken.peak_mb:7.0f} MB  {taken.what}; "
            f"five folds over 180x224x320: about {whole_s:.0f} s"
        )
    return {
        "paper's network: nnUNetPredictor / limn paper": theirs.best_s / ours.best_s,
        "paper's network: nnUNetPredictor / limn paper in int8": theirs.best_s / eight.best_s,
    }


def bench_paper_field(folder: Path) -> dict[str, float]:
    """One fold over a field of the paper's size: limn sees the chest alone, the predictor all."""
    random, mm = paper_bundle(folder / "paper-field", "LPS"), PAPER.spacing_mm
    x, y, z = PAPER.shape_zyx
    volume, _ = scan(conceive(7), random_scanner(7, mm, (z, y, x)), 7)
    chest = alone(limn_chest, random, volume.hu_zyx, mm, 2)
    turned = np.ascontiguousarray(volume.hu_zyx.transpose(2, 1, 0))
    theirs = alone(predictor_warm, random, (0,), turned, mm, 1)
    print("the paper's network, one fold over 180x224x320 at 0.14 mm, the body along the longest:")
    for name, taken in (("limn, the chest alone", chest), ("nnUNetPredictor", theirs)):
        print(f"  {name:22} {taken.best_s:8.2f} s  {taken.peak_mb:7.0f} MB  {taken.what}")
    return {"paper's network, its field: nnUNetPredictor / limn": theirs.best_s / chest.best_s}
