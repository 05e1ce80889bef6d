"""Scans and phantoms on the networks' grid, kept on disk, and read only where a patch lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from limn.domain.files import new_folder
from limn.domain.geometry import Reorientation, SpacingMm
from limn.domain.scan import Box, occupied_box
from limn.lab.adapt.site_scans import SiteScan
from limn.lab.adapt.start import Start
from limn.lab.process.pool import in_processes
from limn.lab.train.patches import BELLY_MM
from limn.phantom.anatomy import TRACHEA, TRUTH_LABELS, WHOLE_LABELS, conceive
from limn.phantom.scanner import expose, random_scanner
from limn.segment.engine.resample import long_axis, resized

# No training, test set, cohort or sample has seeds from here to 650,000.
FIRST_SEED = 600_000
FIRST_WATCHED = 620_000
PHANTOM_LETTERS = "SPL"
# Of a phantom's field along S, P, L.
FIELD_MM = (40.0, 28.8, 31.2)
POINTS = 2000
# A voxel belongs to an organ that fills half of it.
HALF = 128

Shares = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class LearningCase:
    """One scan on the networks' grid and axes; the arrays stay on disk.

    Attributes
    ----------
    hu : (z, y, x) int16
    shares : (organ, z, y, x) uint8, the share of a voxel that each organ of the new bundle fills,
        255 for all of it
    known : whether the truth of each organ is known
    box : of all known organs
    points : for each organ some of its voxels, (n, 3)
    """

    name: str
    hu: npt.NDArray[np.int16]
    shares: Shares
    known: tuple[bool, ...]
    box: Box
    points: tuple[npt.NDArray[np.int32], ...]


def make_cases(
    scans: Sequence[SiteScan],
    seeds: Sequence[int],
    start: Start,
    folder: Path,
    workers: int,
    report: Callable[[str], None],
) -> None:
    """Make the cases of scans and of phantoms that the folder lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [partial(keep_scan, scan, start, folder) for scan in scans]
    jobs += [partial(keep_phantom, seed, start, folder) for seed in seeds]
    names = [scan.name for scan in scans] + [phantom_name(seed) for seed in seeds]
    missing = [job for job, name in zip(jobs, names, strict=True) if not (folder / name).exists()]
    doing = "makes cases"
    ended = in_processes(_call, missing, workers, doing) if workers > 1 else map(_call, missing)
    for done, name in enumerate(ended, start=1):
        report(f"case {done}/{len(missing)}: {name}")


def _call(job: Callable[[], str]) -> str:
    return job()


def read_learning_case(name: str, folder: Path) -> LearningCase:
    """Open a case of the folder."""
    own = folder / name
    with np.load(own / "places.npz") as places:
        low, high = places["box"]
        points = tuple(places[f"points_{k}"] for k in range(len(places["known"])))
        known = tuple(bool(each) for each in places["known"])
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return LearningCase(
        name,
        np.load(own / "hu.npy", mmap_mode="r"),
        np.load(own / "shares.npy", mmap_mode="r"),
        known,
        (box[0], box[1], box[2]),
        points,
    )


def phantom_name(seed: int) -> str:
    """The name of a phantom's case; no scan of a data set has a blank in its name."""
    return f"phantom {seed}"


def keep_scan(scan: SiteScan, start: Start, folder: Path) -> str:
    """Bring a scan to the networks' grid and keep what a patch can reach of it."""
    volume, labels = scan.read()
    turn = Reorientation.between(volume.grid.axis_letters, start.letters)
    own_mm = turn.spacing(volume.grid.spacing_mm).zyx
    straight = turn.apply(volume.hu_zyx)
    z, y, x = (
        max(1, round(n * own / want))
        for n, own, want in zip(straight.shape, own_mm, start.spacing_mm, strict=True)
    )
    across = long_axis(own_mm, start.spacing_mm)
    hu = resized(straight, (z, y, x), torch.device("cpu"), across, _unchanged).numpy()
    masks = {organ: turn.apply(labels.mask(organ)) for organ in scan.organs}
    shares = np.zeros((len(start.organs), z, y, x), dtype=np.uint8)
    for k, organ in enumerate(start.organs.values()):
        if organ in masks:
            shares[k] = shares_of(masks[organ], (z, y, x))
    known = [organ in masks for organ in start.organs.values()]
    return _keep(scan.name, hu, shares, known, start, folder)


def shares_of(
    mask_zyx: npt.NDArray[np.bool_], shape: tuple[int, int, int]
) -> npt.NDArray[np.uint8]:
    """The share of each voxel of another grid over the same field that a mask fills, of 255."""
    box = occupied_box(mask_zyx)
    z, y, x = (
        overlaps(n_in, n_out)[:, span]
        for n_in, n_out, span in zip(mask_zyx.shape, shape, box, strict=True)
    )
    filled = np.tensordot(z, mask_zyx[box].astype(np.float32), (1, 0))
    filled = np.matmul(y, filled) @ x.T
    return np.asarray(np.rint(255.0 * np.clip(filled, 0.0, 1.0)), dtype=np.uint8)


def overlaps(n_in: int, n_out: int) -> npt.NDArray[np.float32]:
    """The matrix (n_out, n_in): shares of n_out cells in n_in cells over one length."""
    before, after = np.arange(n_in + 1) / n_in, np.arange(n_out + 1) / n_out
    low = np.maximum(after[:-1, None], before[None, :-1])
    high = np.minimum(after[1:, None], before[None, 1:])
    return np.asarray(np.maximum(high - low, 0.0) * n_out, dtype=np.float32)


def keep_phantom(seed: int, start: Start, folder: Path) -> str:
    """Paint a phantom on the networks' grid; a third have a contrast agent, an eighth a neighbour.

    The organs that the phantoms lack are not known of it.
    """
    turn = Reorientation.between(PHANTOM_LETTERS, start.letters)
    own = [turn.axes.index(axis) for axis in range(3)]
    spacing = SpacingMm(*(start.spacing_mm[axis] for axis in own))
    nz, ny, nx = (
        max(round(mm / each), start.plan.patch[axis])
        for mm, each, axis in zip(FIELD_MM, spacing.zyx, own, strict=True)
    )
    scanner = random_scanner(seed, spacing.z, (nz, ny, nx))
    labels = {organ: label for label, organ in WHOLE_LABELS.items()}
    painted = [labels[organ] for organ in start.organs.values() if organ in labels]
    beyond_chest = not set(painted) <= {*TRUTH_LABELS, TRACHEA}
    x, y, z = scanner.centre_xyz_mm
    aside_mm = {0: -20.0, 1: -12.0, 2: 14.0}.get(seed % 15, 0.0) + BELLY_MM * beyond_chest
    volume, shares = expose(
        conceive(seed, neighbour=seed % 8 == 0, contrast=seed % 3 == 1),
        replace(scanner, spacing_mm=spacing, centre_xyz_mm=(x, y, z + aside_mm)),
        seed,
        organs=len(TRUTH_LABELS if set(painted) <= set(TRUTH_LABELS) else WHOLE_LABELS),
    )
    nothing = np.zeros(shares.shape[1:], dtype=np.uint8)
    ordered = [
        turn.apply(shares[labels[organ] - 1] if organ in labels else nothing)
        for organ in start.organs.values()
    ]
    known = [organ in labels for organ in start.organs.values()]
    hu = turn.apply(volume.hu_zyx)
    return _keep(phantom_name(seed), hu, np.stack(ordered), known, start, folder)


def _keep(
    name: str,
    hu: npt.NDArray[np.float32],
    shares: Shares,
    known: Sequence[bool],
    start: Start,
    folder: Path,
) -> str:
    """Write a case: what lies within a patch of its organs, filled up to the size of a patch."""
    patch = start.plan.patch
    found = occupied_box(shares.max(axis=0) >= HALF)
    if found[0].stop == 0:
        found = (slice(0, hu.shape[0]), slice(0, hu.shape[1]), slice(0, hu.shape[2]))
    reach = tuple(
        slice(max(0, span.start - n), min(size, span.stop + n))
        for span, n, size in zip(found, patch, hu.shape, strict=True)
    )
    near, fields = hu[reach], shares[(slice(None), *reach)]
    fill = [(0, max(0, n - size)) for n, size in zip(patch, near.shape, strict=True)]
    near = np.pad(near, fill, constant_values=round(start.plan.mean))
    fields = np.pad(fields, [(0, 0), *fill])
    span = np.iinfo(np.int16)
    box = occupied_box(fields.max(axis=0) >= HALF)
    places: dict[str, Any] = {
        "known": np.array(known, dtype=np.bool_),
        "box": np.array([[side.start for side in box], [side.stop for side in box]]),
    } | {f"points_{k}": _some_voxels(field) for k, field in enumerate(fields)}
    with new_folder(folder / name) as part:
        np.save(part / "hu.npy", np.clip(np.rint(near), span.min, span.max).astype(np.int16))
        np.save(part / "shares.npy", np.ascontiguousarray(fields))
        np.savez(part / "places.npz", **places)
    return name


def _some_voxels(field: Shares) -> npt.NDArray[np.int32]:
    inside = np.argwhere(field >= HALF)
    step = max(1, len(inside) // POINTS)
    return np.asarray(inside[::step], dtype=np.int32)


def _unchanged(slab: torch.Tensor) -> torch.Tensor:
    return slab


def sites_and_phantoms(
    scans: Sequence[SiteScan], seeds: Sequence[int], folder: Path
) -> tuple[list[LearningCase], list[LearningCase]]:
    """The cases of some scans and of some phantoms."""
    return (
        [read_learning_case(scan.name, folder) for scan in scans],
        [read_learning_case(phantom_name(seed), folder) for seed in seeds],
    )
