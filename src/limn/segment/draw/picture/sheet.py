"""The picture by which a person decides whether contours may go out: seven cuts and their words."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from limn.domain.geometry import Grid, Reorientation
from limn.domain.light import Light
from limn.domain.scan import Labels, Organ, Role, Volume
from limn.segment.draw.picture.cuts import Cut, box_around, cord_cuts, halves
from limn.segment.draw.picture.legend import (
    FAINT,
    HEADER_PX,
    INK,
    LIGHT_COLOURS,
    PAPER,
    Banner,
    Legend,
    draw_header,
    draw_legend,
)
from limn.segment.draw.picture.panels import (
    PLANES,
    WHITE,
    Colour,
    Layer,
    draw_levels,
    draw_panel,
    draw_scale,
    extent_mm,
    fitting_px,
    font,
)

SHEET_PX, LEGEND_PX, MARGIN_PX = 1500, 340, 14
# Most height of a panel in the row of axial cuts, and in the row below.
AXIAL_PX, LONG_PX = 350, 440
HEADLINE_PX, SMALLEST_PX, HEADLINE_STEP_PX, HEADLINES_PX = 16, 11, 21, 45
COMPRESSION = 1

_POSITIONS = (
    "x y z: patient coordinates, growing to the animal's left, back and head. "
    "Ticks 1 2 3: where the axial cuts lie."
)
_BENT = (
    "Cuts 6 and 7 are bent: at every z they pass through the cord's middle; beyond its ends they "
    "go on straight."
)
_Voxel: TypeAlias = tuple[int, int, int]
# The axial cuts as they hang, and at which share of the height one lies if its organ is missing.
_AXIAL = (Role.LUNG_R, Role.HEART, Role.LUNG_L)
_SHARES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """The part of a scan that is shown, with axes S, P and L."""

    hu_zyx: npt.NDArray[np.float32]
    labels: Labels
    layers: tuple[Layer, ...]
    grid: Grid
    spacing: tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """One panel: its cut, and what stands above it.

    Attributes
    ----------
    warns : the organ that it is meant to cut has no contour
    """

    name: str
    cut: Cut
    title: str
    warns: bool = False


def draw_contours(
    volume: Volume,
    labels: Labels,
    colours: Mapping[Organ, Colour],
    banner: Banner,
    legend: Legend | None = None,
    before: Labels | None = None,
) -> bytes:
    """PNG of axial cuts through lungs and heart, and of long cuts through heart and cord.

    The animal's head is up in the coronal and sagittal panels, its belly up in the axial ones, its
    right side at the viewer's left, as radiologists hang CT. Two cuts are bent along the cord:
    they show it in every row that it crosses.

    Parameters
    ----------
    volume : evenly spaced, on the grid of the labels
    legend : by default the organs' names alone
    before : what was there before an edit; its contours lie beneath, thin and white, so that they
        are seen only where the two differ
    """
    whole = labels.labels_zyx if before is None else labels.labels_zyx | before.labels_zyx
    around = box_around(whole, volume.grid.spacing_mm.zyx)
    turn = Reorientation.between(volume.grid.axis_letters, "SPL")
    grid = turn.grid(volume.grid.part(around))
    # Steps of slices are sums of floats: one animal must give one picture, however it is stacked.
    z_mm, y_mm, x_mm = (round(mm, 6) for mm in grid.spacing_mm.zyx)
    shown = labels.on_voxels(turn.apply(labels.labels_zyx[around]), grid)
    under = []
    if before is not None:
        white = dict.fromkeys(before.organs.values(), WHITE)
        under = [Layer(turn.apply(before.labels_zyx[around]), before.organs, white, width_px=1)]
    scene = _Scene(
        turn.apply(volume.hu_zyx[around]),
        shown,
        (*under, Layer(shown.labels_zyx, labels.organs, colours)),
        grid,
        (z_mm, y_mm, x_mm),
    )
    found = halves(shown.labels_zyx, labels.organs)
    panels = _draw_rows(scene, found, SHEET_PX - LEGEND_PX - 3 * MARGIN_PX)
    organs = list(labels.organs.values())
    legend = legend or Legend()
    notes = (legend.note, _POSITIONS, *([_BENT] if labels.organ_of(Role.CORD) in found else []))
    legend = replace(legend, note=" ".join(notes))
    words = draw_legend(legend, colours, organs, (LEGEND_PX, panels.height))
    top = HEADER_PX + MARGIN_PX
    sheet = Image.new("RGB", (SHEET_PX, top + words.height + MARGIN_PX), PAPER)
    sheet.paste(draw_header(banner, SHEET_PX), (0, 0))
    sheet.paste(panels, (MARGIN_PX, top))
    sheet.paste(words, (SHEET_PX - LEGEND_PX - MARGIN_PX, top))
    file = io.BytesIO()
    sheet.save(file, "PNG", compress_level=COMPRESSION)
    return file.getvalue()


def _axial_views(scene: _Scene, found: Mapping[Organ, _Voxel]) -> list[_View]:
    """Through right lung, heart and left lung; through others where the labels have none of these.

    If there are too few organs, the rest of the cuts divide what is shown.
    """
    cord = scene.labels.organ_of(Role.CORD)
    wanted = [scene.labels.organ_of(role) for role in _AXIAL]
    spare = [each for each in scene.labels.organs.values() if each not in (*wanted, cord)]
    return [
        _plane(scene, f"{number}", 0, found, organ or (spare.pop(0) if spare else None), share)
        for number, (organ, share) in enumerate(zip(wanted, _SHARES, strict=True), 1)
    ]


def _long_views(scene: _Scene, found: Mapping[Organ, _Voxel]) -> list[_View]:
    """Coronal and sagittal planes through the heart, and bent ones along the cord.

    Of labels without a heart or without a cord there are planes through other organs.
    """
    cord = scene.labels.organ_of(Role.CORD)
    others = [each for each in scene.labels.organs.values() if each != cord]
    first = scene.labels.organ_of(Role.HEART) or (others[0] if others else None)
    views = [_plane(scene, f"{3 + axis}", axis, found, first) for axis in (1, 2)]
    if cord is not None and cord in found:
        bent = cord_cuts(scene.labels.mask(cord), scene.spacing[0])
        return views + [
            _View(f"{5 + cut.axis}", cut, f"{PLANES[cut.axis]}, bent along the cord")
            for cut in bent
        ]
    second = cord or next((each for each in others if each != first), None)
    if second is not None:
        views += [_plane(scene, f"{5 + axis}", axis, found, second) for axis in (1, 2)]
    return views


def _plane(
    scene: _Scene,
    name: str,
    axis: int,
    found: Mapping[Organ, _Voxel],
    organ: Organ | None,
    share: float = 0.5,
) -> _View:
    """A plane through an organ's middle; through a share of what is shown if there is none."""
    if organ is not None and organ in found:
        title = f"{PLANES[axis]}, middle of {organ}"
        return _View(name, Cut.plane(axis, found[organ][axis]), title)
    index = int(share * scene.hu_zyx.shape[axis])
    title = PLANES[axis] if organ is None else f"{PLANES[axis]}: NO {organ}"
    return _View(name, Cut.plane(axis, index), title, warns=organ is not None)


def _draw_rows(scene: _Scene, found: Mapping[Organ, _Voxel], width: int) -> Image.Image:
    """The axial panels above, the others below, each row as large as it can be."""
    axial, long = _axial_views(scene, found), _long_views(scene, found)
    slices = scene.hu_zyx.shape[0]
    levels = {view.name: 1 - (view.cut.at[0] + 0.5) / slices for view in axial}
    above = _draw_row(scene, axial, (width, AXIAL_PX), {})
    below = _draw_row(scene, long, (width, LONG_PX), levels)
    rows = Image.new("RGB", (width, above.height + MARGIN_PX + below.height), PAPER)
    rows.paste(above, (0, 0))
    rows.paste(below, (0, above.height + MARGIN_PX))
    return rows


def _draw_row(
    scene: _Scene, views: Sequence[_View], size: tuple[int, int], levels: Mapping[str, float]
) -> Image.Image:
    """Panels of one scale beside one another, as large as width and height allow."""
    sides_mm = [extent_mm(scene.hu_zyx.shape, scene.spacing, view.cut.axis) for view in views]
    room = size[0] - MARGIN_PX * (len(views) - 1)
    widest_mm, highest_mm = sum(wide for _, wide in sides_mm), max(high for high, _ in sides_mm)
    px_per_mm = min(room / widest_mm, size[1] / highest_mm)
    height = HEADLINES_PX + max(1, round(highest_mm * px_per_mm))
    row = Image.new("RGB", (size[0], height), PAPER)
    pen = ImageDraw.Draw(row)
    left = 0.0
    spare = (room - widest_mm * px_per_mm) / len(views)
    for view, (_, wide_mm) in zip(views, sides_mm, strict=True):
        panel = draw_panel(scene.hu_zyx, scene.spacing, view.cut, scene.layers, px_per_mm)
        draw_scale(panel, px_per_mm)
        draw_levels(panel, levels)
        row.paste(panel, (round(left), HEADLINES_PX))
        ink = LIGHT_COLOURS[Light.AMBER] if view.warns else INK
        title = f"{view.name}  {view.title}"
        px = fitting_px(title, panel.width + spare, HEADLINE_PX, SMALLEST_PX)
        pen.text((left, HEADLINE_PX), title, fill=ink, font=font(px), anchor="ls")
        place = (left, HEADLINE_STEP_PX)
        pen.text(place, _position(scene.grid, view.cut), fill=FAINT, font=font(HEADLINE_PX))
        left += wide_mm * px_per_mm + spare + MARGIN_PX
    return row


def _position(grid: Grid, cut: Cut) -> str:
    """Where a cut lies in the patient, such as ``z 12.3 mm``."""
    centre = [(n - 1) / 2 for n in grid.shape_zyx]
    found = []
    for at in (cut.at.min(), cut.at.max()):
        centre[cut.axis] = float(at)
        point = grid.plane_points_xyz_mm(round(centre[0]), np.array([centre[1:]]))
        mm = round(float(point[0, 2 - cut.axis]), 4)
        found.append(f"{round(mm, 1) + 0.0:.1f}")
    letter = "zyx"[cut.axis]
    return f"{letter} {' to '.join(found if cut.bent else found[:1])} mm"
