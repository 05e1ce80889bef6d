"""Phantoms to DICOM series, NIfTI and truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import SimpleITK
from pydicom.dataset import Dataset
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from limn import __version__
from limn.dicom import rtstruct
from limn.dicom.ct import CtIdentity, ct_instances
from limn.dicom.series import Instance, Series, Slice, assemble, planes
from limn.dicom.uids import uid_from
from limn.dicom.volume import read_headers
from limn.domain.errors import ConfigWrong, RefusedSeries
from limn.domain.folders import writable
from limn.domain.geometry import Grid, SpacingMm
from limn.domain.scan import Labels, Organ, Volume
from limn.lab.nifti import to_image
from limn.lab.phantoms import orientation
from limn.lab.phantoms.quirks import QUIRKS, Files, Quirk, SeriesFile, choose, save
from limn.phantom.anatomy import conceive
from limn.phantom.scanner import Scanner, scan
from limn.segment.draw.trace import trace

LABEL = "TRUTH"
# The middle of the field, from the middle of the heart: lungs and cord reach further to the tail.
CHEST_XYZ_MM = (0.0, 1.0, -2.5)
MOST_VOXELS = 600_000_000
WHEN = ("20260101", "120000")
STYLE = rtstruct.Style(
    roi_names=MappingProxyType({organ: organ.value for organ in Organ}),
    colours=MappingProxyType(
        {
            Organ.HEART: (255, 0, 0),
            Organ.CORD: (255, 255, 0),
            Organ.LUNG_R: (0, 200, 0),
            Organ.LUNG_L: (0, 128, 255),
        }
    ),
    species="Mus musculus",
)


@dataclass(frozen=True, slots=True, eq=False)
class Synthesized:
    """A phantom on disk.

    Attributes
    ----------
    series_dir : folder of DICOM files
    truth : labels on the grid of the series, slice by slice as it is read; a slice that a quirk
        took away is not among them
    slices : how many slices the series has
    position : PatientPosition that the animal was stored in
    flags : what limn's own reader finds odd about the series
    refusal : why limn's own reader refuses it; empty when it does not
    """

    series_dir: Path
    truth: Labels
    slices: int
    position: str = "HFS"
    flags: tuple[str, ...] = ()
    refusal: str = ""


def synthesize(
    folder: Path,
    seed: int,
    *,
    spacing_mm: float,
    size_mm: tuple[float, float, float],
    neighbour: bool = False,
    contrast: bool = False,
    position: str | None = None,
    stack: str = "axial",
    turned: str | None = None,
    mirrored: str | None = None,
    quirks: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Synthesized:
    """Write one phantom mouse: ``dicom/``, ``rtstruct.dcm``, ``ct.nii.gz``, ``truth.nii.gz``.

    The structure set outlines the truth where it lies in the pixels of the series, at the
    millimetres that the series' own header gives them, whatever the quirks. The two NIfTI files
    hold the volume before the quirks: no slice missing, nothing rounded.

    Parameters
    ----------
    size_mm : field of view, z y x of the animal
    neighbour : a second animal lies beside the first
    contrast : the animal was given a contrast agent
    position : PatientPosition; the header then truly says how the animal lies. The bed is on the
        back's side for supine, on the belly's for prone; on its side the animal takes the bed
        along. By default HFS or HFP, as the seed lets it lie
    stack : "axial", "coronal" or "sagittal"
    turned : "x", "y" or "z": half a turn of the pixels about this axis that no tag tells
    mirrored : "x", "y" or "z": a flip of the pixels along this axis that no tag tells
    quirks : names in `limn.lab.phantoms.quirks.QUIRKS`
    say : called with what is being done

    Raises
    ------
    ConfigWrong
        For a folder that is not empty or can't be written, a size of no voxels, an unknown quirk,
        position, stack or axis, or quirks that exclude each other.
    """
    chosen = choose(quirks)
    shape = _checked(spacing_mm, size_mm, position, stack, turned, mirrored)
    if seed < 0:
        msg = f"seed {seed}: 0 or more expected"
        raise ConfigWrong(msg)
    series_dir = _empty_folder(folder)
    say("painting the mouse")
    mouse = conceive(seed, prone=_prone(position), neighbour=neighbour, contrast=contrast)
    lies = position or ("HFP" if mouse.prone else "HFS")
    scanner = Scanner(SpacingMm(spacing_mm, spacing_mm, spacing_mm), shape, CHEST_XYZ_MM)
    volume, truth = scan(mouse, scanner, seed)
    if turned is not None:
        volume, truth = orientation.turned(volume, truth, turned)
    if mirrored is not None:
        volume, truth = orientation.mirrored(volume, truth, mirrored)
    volume, truth = orientation.restack(volume, truth, lies, stack)
    settings = (neighbour, contrast, lies, stack, turned, mirrored, sorted(quirks))
    everything = (seed, spacing_mm, shape, *settings)
    identity = CtIdentity(
        animal=f"PHANTOM-{seed}",
        uid_root=uid_from(f"phantom|{everything}"),
        when=WHEN,
        patient_position=lies,
    )
    say(f"writing {len(volume.hu_zyx)} slices")
    files = _written(volume, identity, chosen, series_dir)
    SimpleITK.WriteImage(to_image(volume.hu_zyx, volume.grid), str(folder / "ct.nii.gz"))
    SimpleITK.WriteImage(to_image(truth.labels_zyx, truth.grid), str(folder / "truth.nii.gz"))
    say("outlining the truth")
    series, refusal = _read_back(files, series_dir, volume.grid)
    kept = sorted({k for each in files for k in each.slices})
    drawn = Labels(truth.labels_zyx[kept], series.grid, truth.organs)
    (folder / "rtstruct.dcm").write_bytes(_structure_set(series, drawn))
    return Synthesized(series_dir, drawn, len(kept), lies, series.flags, refusal)


def show_phantom(
    folder: Path,
    seed: int,
    *,
    spacing_mm: float,
    size_mm: tuple[float, float, float],
    neighbour: bool,
    contrast: bool,
    position: str | None,
    stack: str,
    turned: str | None,
    mirrored: str | None,
    quirks: Sequence[str],
) -> None:
    """`synthesize` under a spinner, and what was made."""
    console = Console(highlight=False, soft_wrap=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        task = bars.add_task("", total=None)
        made = synthesize(
            folder,
            seed,
            spacing_mm=spacing_mm,
            size_mm=size_mm,
            neighbour=neighbour,
            contrast=contrast,
            position=position,
            stack=stack,
            turned=turned,
            mirrored=mirrored,
            quirks=quirks,
            say=(lambda doing: bars.update(task, description=doing))
            if console.is_terminal
            else console.print,
        )
    console.print(
        f"{made.slices} {stack} slices, {made.position}, in {escape(str(made.series_dir))}"
    )
    console.print(f"truth in {escape(str(folder / 'rtstruct.dcm'))} and truth.nii.gz beside it")
    for verb, axis in (("turned about", turned), ("mirrored along", mirrored)):
        if axis is not None:
            console.print(f"the header lies: the pixels are {verb} {axis}")
    if made.flags:
        console.print(f"limn flags the series: {escape(', '.join(made.flags))}")
    if made.refusal:
        console.print(f"limn refuses the series: {escape(made.refusal)}")


def quirk_table() -> str:
    """Every quirk and what it does, one a line."""
    width = max(len(name) for name in QUIRKS)
    return "\n".join(f"{name:{width}}  {quirk.meaning}" for name, quirk in QUIRKS.items())


def _checked(
    spacing_mm: float,
    size_mm: tuple[float, float, float],
    position: str | None,
    stack: str,
    turned: str | None,
    mirrored: str | None,
) -> tuple[int, int, int]:
    """Voxels of the field of view, z y x; refuses what can't be made."""
    for name, value, known in (
        ("position", position, orientation.POSITIONS),
        ("stack", stack, orientation.STACKS),
        ("turned", turned, ("x", "y", "z")),
        ("mirrored", mirrored, ("x", "y", "z")),
    ):
        if value is not None and value not in known:
            msg = f"{name} {value!r}: one of {', '.join(known)} expected"
            raise ConfigWrong(msg)
    finite = all(np.isfinite(mm) for mm in (spacing_mm, *size_mm))
    if not finite or spacing_mm <= 0 or min(size_mm) < 4 * spacing_mm:
        msg = f"spacing {spacing_mm} mm, size {size_mm} mm: at least 4 voxels a side expected"
        raise ConfigWrong(msg)
    z, y, x = (round(mm / spacing_mm) for mm in size_mm)
    if z * y * x > MOST_VOXELS:
        msg = f"{z} x {y} x {x} voxels need {z * y * x * 32 / 1e9:.0f} GB; give a larger --spacing"
        raise ConfigWrong(msg)
    return (z, y, x)


def _empty_folder(folder: Path) -> Path:
    writable(folder)
    series_dir = writable(folder / "dicom")
    if any(series_dir.iterdir()):
        msg = f"{series_dir} is not empty; two animals would mix, give another folder"
        raise ConfigWrong(msg)
    return series_dir


def _prone(position: str | None) -> bool | None:
    """On the belly, on the back, or None where the seed may decide."""
    return {"S": False, "P": True}.get((position or "")[-1:])


def _written(
    volume: Volume, identity: CtIdentity, quirks: Sequence[Quirk], series_dir: Path
) -> Files:
    """The series with its quirks on disk; the files as they were written."""
    files = [
        SeriesFile(f"ct_{k + 1:04d}.dcm", ds, (k,))
        for k, ds in enumerate(ct_instances(volume, identity))
    ]
    for quirk in quirks:
        files = quirk.apply(files)
    save(files, series_dir)
    return files


def _read_back(files: Files, series_dir: Path, grid: Grid) -> tuple[Series, str]:
    """The series as limn's own reader sees it, or as it was meant, and the reason."""
    # The same bytes twice count once, as they do at the node's doors.
    once = list({str(each.ds.SOPInstanceUID): each for each in files}.values())
    instances = read_headers([series_dir / each.name for each in once])
    try:
        return assemble([each for each in instances if each.header.Modality == "CT"]), ""
    except RefusedSeries as error:
        return _as_meant(once, instances, grid), str(error)


def _as_meant(files: Files, instances: Sequence[Instance], grid: Grid) -> Series:
    """A series that can't be read as one, by the grid that its slices have in truth."""
    slices = {}
    for file, instance in zip(files, instances, strict=True):
        if file.slices:
            frames = planes(instance.header)
            for k, (frame, plane) in zip(file.slices, frames, strict=True):
                slices[k] = Slice(instance.header, plane, instance.path, frame)
    kept = sorted(slices)
    left = Grid(
        slice_origins_xyz_mm=grid.slice_origins_xyz_mm[kept],
        rows=grid.rows,
        columns=grid.columns,
        spacing_y_mm=grid.spacing_y_mm,
        spacing_x_mm=grid.spacing_x_mm,
        along_x_xyz=grid.along_x_xyz,
        along_y_xyz=grid.along_y_xyz,
    )
    return Series(tuple(slices[k] for k in kept), left, np.array(kept, dtype=np.int64), ())


def _structure_set(series: Series, truth: Labels) -> bytes:
    """The truth as a structure set that says what it is."""
    uid = str(series.first.SeriesInstanceUID)
    identity = rtstruct.Identity(
        sop_instance_uid=uid_from(f"truth|{uid}"),
        series_instance_uid=uid_from(f"series of truth|{uid}"),
        date=WHEN[0],
        time=WHEN[1],
        label=LABEL,
        software=__version__,
        algorithm="truth of a limn phantom",
    )
    contents = rtstruct.build(series, trace(truth).contours, truth.volumes_mm3(), identity, STYLE)
    ds = rtstruct.read(contents)
    ds.SeriesDescription = "truth of a limn phantom"
    for roi in ds.StructureSetROISequence:
        _deny_algorithm(roi)
    return rtstruct.to_bytes(ds)


def _deny_algorithm(roi: Dataset) -> None:
    """No algorithm found these outlines, let alone an intelligent one."""
    roi.ROIGenerationAlgorithm = ""
    del roi.ROIDerivationAlgorithmIdentificationSequence
