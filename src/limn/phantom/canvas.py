"""The canvas of a phantom: voxels with their positions in the straight mouse, and shapes.

A shape is a signed distance in mm, negative inside. A voxel on a surface mixes both sides in the
shares that follow from the distance: partial volume without a finer grid. Only the box around a
shape is computed, so that a scan takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import interpolate

from limn.domain.geometry import Grid
from limn.domain.scan import occupied_box
from limn.phantom.anatomy import TRUTH_LABELS, Pose

Field: TypeAlias = npt.NDArray[np.float32]
PointXyzMm: TypeAlias = tuple[float, float, float]
BoxZyx: TypeAlias = tuple[slice, slice, slice]

# Poses bend smoothly: a warp computed on this coarse grid is exact to a few microns.
WARP_STEP_MM = 1.0
# Boxes are looked for among every third voxel.
COARSE_STEP = 3
WOBBLE_WAVE_MM = (15.0, 34.0)


class AxialProfile:
    """A smooth function of z through a few points, tabulated for fast evaluation."""

    def __init__(self, points: Mapping[float, float], scale: float = 1.0) -> None:
        z = np.array(sorted(points))
        values = np.array([points[key] for key in sorted(points)]) * scale
        self._first, self._step = float(z[0]), 0.02
        fine = np.arange(z[0], z[-1] + self._step, self._step)
        curve = interpolate.PchipInterpolator(z, values)(np.clip(fine, z[0], z[-1]))
        self._table = curve.astype(np.float32)

    def __call__(self, z: npt.ArrayLike) -> Field:
        """Its value at each z."""
        at = np.asarray(np.asarray(z) - np.float32(self._first))
        at *= np.float32(1.0 / self._step)
        np.clip(at, 0, len(self._table) - 1, out=at)
        return np.asarray(self._table[at.astype(np.int32)])


@dataclass(frozen=True, eq=False)
class Canvas:
    """Voxels of a scan and their positions in the straight mouse.

    Attributes
    ----------
    x, y, z : (z, y, x) float32, mm in the mouse's own frame
    hu_zyx : (z, y, x) float32, painted in place
    shares : (organ, z, y, x) uint8 truth, painted in place: 255 where the organ of `TRUTH_LABELS`,
        or of `WHOLE_LABELS`, fills the voxel; None for an object without labels
    voxel_mm : width over which a surface mixes both sides
    """

    x: Field
    y: Field
    z: Field
    hu_zyx: Field
    shares: npt.NDArray[np.uint8] | None
    voxel_mm: float

    def box(self, low_xyz: PointXyzMm, high_xyz: PointXyzMm) -> BoxZyx | None:
        """The voxels that may lie between two corners in the mouse's frame, with room around them.

        The seeds' textures and vessels depend on this room, so it must stay as it is.
        """
        return self._box(low_xyz, high_xyz, 2.5 * COARSE_STEP * self.voxel_mm, 1)

    def snug_box(self, low_xyz: PointXyzMm, high_xyz: PointXyzMm) -> BoxZyx | None:
        """Like `box`, with as little room as a shape needs that lies between the corners."""
        # A voxel is at most two voxels along each axis from a coarse one before it.
        return self._box(low_xyz, high_xyz, 1.75 * COARSE_STEP * self.voxel_mm, 0)

    @cached_property
    def _coarse(self) -> tuple[Field, Field, Field]:
        """Every third position along each axis: x, y, z."""
        step = COARSE_STEP
        x, y, z = (
            np.ascontiguousarray(axis[::step, ::step, ::step]) for axis in (self.x, self.y, self.z)
        )
        return x, y, z

    def _box(
        self, low_xyz: PointXyzMm, high_xyz: PointXyzMm, margin_mm: float, more: int
    ) -> BoxZyx | None:
        inside = np.ones(self._coarse[0].shape, dtype=np.bool_)
        for axis, low, high in zip(self._coarse, low_xyz, high_xyz, strict=True):
            inside &= axis > low - margin_mm
            inside &= axis < high + margin_mm
        found = occupied_box(inside)
        if found[0].stop == 0:
            return None
        z, y, x = (
            slice(
                max(0, (span.start - more) * COARSE_STEP),
                min(size, (span.stop + more) * COARSE_STEP),
            )
            for span, size in zip(found, self.x.shape, strict=True)
        )
        return (z, y, x)

    def part(self, box: BoxZyx) -> Canvas:
        """A view of the canvas in a box; painting it changes this canvas."""
        shares = None if self.shares is None else self.shares[(slice(None), *box)]
        return Canvas(
            self.x[box], self.y[box], self.z[box], self.hu_zyx[box], shares, self.voxel_mm
        )

    def fill(self, distance_mm: Field, hu: float | Field, strength: float = 1.0) -> None:
        """Paint the inside of a shape; its surface mixes with the present values."""
        share = self.covered(distance_mm)
        if strength != 1.0:
            share *= np.float32(strength)
        change = hu - self.hu_zyx
        change *= share
        self.hu_zyx[...] += change

    def covered(self, distance_mm: Field) -> Field:
        """The share of each voxel inside a shape."""
        share = np.asarray(distance_mm / np.float32(self.voxel_mm))
        np.subtract(0.5, share, out=share)
        np.clip(share, 0.0, 1.0, out=share)
        return np.asarray(share, dtype=np.float32)

    def label(self, share: Field, label: int) -> None:
        """Add an organ to the truth; it takes its share of each voxel from the other organs."""
        self.unlabel(share)
        if self.shares is not None:
            self.shares[label - 1] += np.rint(255.0 * share).astype(np.uint8)

    def label_body(self, distance_mm: Field, label: int | None) -> None:
        """Add an organ that is not of `TRUTH_LABELS`; None for what only hides such organs.

        It takes its share of each voxel from the others of its kind.
        """
        if self.shares is None or len(self.shares) <= len(TRUTH_LABELS):
            return
        share = self.covered(distance_mm)
        for organ in self.shares[len(TRUTH_LABELS) :]:
            organ[...] = np.rint(organ * (1.0 - share))
        if label is not None:
            self.shares[label - 1] += np.rint(255.0 * share).astype(np.uint8)

    def unlabel(self, share: Field) -> None:
        """Remove a share of each voxel from every organ, such as that of bone."""
        if self.shares is not None:
            for organ in self.shares:
                organ[...] = np.rint(organ * (1.0 - share))


def warped(
    grid: Grid, pose: Pose, size: float, at_xyz_mm: PointXyzMm
) -> tuple[Field, Field, Field]:
    """The position of each voxel of a grid in the straight mouse of size 1.

    Parameters
    ----------
    at_xyz_mm : position of the middle of the heart, LPS

    Returns
    -------
    x, y, z : (z, y, x) float32, mm
    """
    spacing = grid.spacing_mm.zyx
    first = grid.slice_origins_xyz_mm[0]
    extent = [n * mm for n, mm in zip(grid.shape_zyx, spacing, strict=True)]
    counts = [max(4, round(mm / WARP_STEP_MM) + 1) for mm in extent]
    z, y, x = (
        first[2 - axis]
        + np.linspace(0.0, (grid.shape_zyx[axis] - 1) * spacing[axis], counts[axis])
        - at_xyz_mm[2 - axis]
        for axis in range(3)
    )
    points = np.stack(np.broadcast_arrays(x[None, None, :], y[None, :, None], z[:, None, None]))
    turned = np.einsum("ij,jzyx->izyx", _turn(pose), points) / size
    straight = _unbend(turned + _wobble(turned, pose), pose)
    return tuple(_refined(axis.astype(np.float32), grid.shape_zyx) for axis in straight)  # type: ignore[return-value]


def _turn(pose: Pose) -> npt.NDArray[np.float64]:
    roll, pitch, yaw = pose.roll_rad, pose.pitch_rad, pose.yaw_rad
    about_z = [[np.cos(roll), np.sin(roll), 0], [-np.sin(roll), np.cos(roll), 0], [0, 0, 1]]
    about_x = [[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]]
    about_y = [[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]]
    return np.asarray(np.array(about_z) @ np.array(about_x) @ np.array(about_y))


def _unbend(points: npt.NDArray[np.float64], pose: Pose) -> npt.NDArray[np.float64]:
    """Coordinates along the animal's bent axis and at right angles to it."""
    period = 24.0

    def axis(t: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], ...]:
        u = np.clip(t, -45, 35) / period
        side = pose.bend_side_mm * np.sin(2.2 * u + pose.bend_phase)
        back = pose.bend_back_mm * np.cos(2.0 * u + pose.bend_phase)
        side_slope = pose.bend_side_mm * 2.2 / period * np.cos(2.2 * u + pose.bend_phase)
        back_slope = -pose.bend_back_mm * 2.0 / period * np.sin(2.0 * u + pose.bend_phase)
        return side, back, side_slope, back_slope

    x, y, z = points
    t = z.copy()
    for _ in range(3):
        side, back, dside, dback = axis(t)
        along = (x - side) * dside + (y - back) * dback + (z - t)
        t = t + along / (1.0 + dside**2 + dback**2)
    side, back, dside, dback = axis(t)
    length = np.sqrt(1.0 + dside**2 + dback**2)
    across = np.sqrt(1.0 + dside**2)
    # Unit vectors at right angles to the axis: one in the frontal plane, one out of it.
    new_x = ((x - side) - (z - t) * dside) / across
    e2 = np.stack([-dside * dback, across**2, -dback]) / (length * across)
    new_y = e2[0] * (x - side) + e2[1] * (y - back) + e2[2] * (z - t)
    return np.stack([new_x, new_y, t])


def _wobble(points: npt.NDArray[np.float64], pose: Pose) -> npt.NDArray[np.float64]:
    """A smooth random displacement, a sum of waves, that gives each mouse its own shape."""
    rng = np.random.default_rng(pose.wobble_seed)
    waves = 10
    moved = np.zeros_like(points)
    for axis in range(3):
        for _ in range(waves):
            direction = rng.normal(0.0, 1.0, 3)
            direction *= 2 * np.pi / float(rng.uniform(*WOBBLE_WAVE_MM)) / np.linalg.norm(direction)
            phase = np.tensordot(direction, points, 1) + float(rng.uniform(0.0, 2 * np.pi))
            moved[axis] += np.sqrt(2.0 / waves) * np.sin(phase)
    return np.asarray(moved * pose.wobble_mm)


def _refined(coarse: Field, shape_zyx: tuple[int, int, int]) -> Field:
    """Linear interpolation to the grid, one axis after the other."""
    out = coarse
    for axis, size in enumerate(shape_zyx):
        at = np.linspace(0, out.shape[axis] - 1, size)
        low = np.minimum(at.astype(int), out.shape[axis] - 2)
        part = (at - low).astype(np.float32)
        part = part.reshape([-1 if i == axis else 1 for i in range(3)])
        out = np.take(out, low, axis) * (1 - part) + np.take(out, low + 1, axis) * part
    return np.ascontiguousarray(out, dtype=np.float32)


def ellipsoid(canvas: Canvas, centre: PointXyzMm, radii: PointXyzMm) -> Field:
    """Signed distance to an ellipsoid, nearly exact at its surface."""
    off = canvas.x - centre[0], canvas.y - centre[1], canvas.z - centre[2]
    k0 = _length(off, radii)
    k1 = _length(off, (radii[0] ** 2, radii[1] ** 2, radii[2] ** 2))
    # In place, here and below: most of the time of a phantom is the memory of such arrays.
    np.maximum(k1, 1e-6, out=k1)
    distance = k0 - 1.0
    distance *= k0
    distance /= k1
    return np.asarray(distance, dtype=np.float32)


def _length(off_xyz: tuple[Field, Field, Field], radii: PointXyzMm) -> Field:
    """Length of a vector in units of three radii."""
    total = off_xyz[0] / radii[0]
    total *= total
    for off, radius in zip(off_xyz[1:], radii[1:], strict=True):
        part = off / radius
        part *= part
        total += part
    return np.asarray(np.sqrt(total, out=total))


def ellipse(dx: Field, dy: npt.NDArray[Any], rx: Field, ry: npt.NDArray[Any]) -> Field:
    """Signed distance to an ellipse whose radii may differ from slice to slice."""
    k0 = np.sqrt((dx / rx) ** 2 + (dy / ry) ** 2)
    k1 = np.sqrt((dx / rx**2) ** 2 + (dy / ry**2) ** 2)
    return np.asarray(k0 * (k0 - 1.0) / np.maximum(k1, 1e-6), dtype=np.float32)


def rod(canvas: Canvas, start: PointXyzMm, end: PointXyzMm) -> Field:
    """Distance from the segment between two points."""
    a = np.array(start, dtype=np.float32)
    along = np.array(end, dtype=np.float32) - a
    off = canvas.x - a[0], canvas.y - a[1], canvas.z - a[2]
    length2 = max(float(along @ along), 1e-9)
    t = off[0] * along[0]
    for axis in (1, 2):
        t += off[axis] * along[axis]
    t /= length2
    np.clip(t, 0.0, 1.0, out=t)
    total = np.zeros_like(t)
    for axis in range(3):
        part = off[axis]
        part -= t * along[axis]
        part *= part
        total += part
    return np.asarray(np.sqrt(total, out=total), dtype=np.float32)


def union(a: Field, b: Field, round_mm: float) -> Field:
    """The union of two shapes, the crease between them filled to a radius."""
    h = np.asarray(a - b)
    np.abs(h, out=h)
    np.subtract(round_mm, h, out=h)
    np.maximum(h, 0.0, out=h)
    h /= round_mm
    h *= h
    h *= round_mm / 4
    np.subtract(np.minimum(a, b), h, out=h)
    return np.asarray(h, dtype=np.float32)


def common(a: Field, b: Field, round_mm: float) -> Field:
    """The intersection of two shapes, its edge rounded."""
    joined = union(-a, -b, round_mm)
    return np.asarray(np.negative(joined, out=joined))
