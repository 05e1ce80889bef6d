"""Writes a phantom mouse as a DICOM series, an RTSTRUCT of its truth, and NIfTI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
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
from limn.domain.files import write_durably
from limn.domain.folders import writable
from limn.domain.geometry import Grid, SpacingMm
from limn.domain.one_line import one_line
from limn.domain.scan import Labels, Volume
from limn.formats.label_files import image_of, write_image
from limn.lab.phantoms import orientation
from limn.lab.phantoms.quirks import QUIRKS, Files, Quirk, SeriesFile, choose, save
from limn.phantom.anatomy import TRUTH_LABELS, conceive
from limn.phantom.scanner import Scanner, scan
from limn.segment.draw.trace import trace

LABEL = "TRUTH"
# Middle of the field relative to the middle of the heart; lungs and cord reach further tailward.
CHEST_XYZ_MM = (0.0, 1.0, -2.5)
MAX_VOXELS = 600_000_000
WHEN = ("20260101", "120000")
STYLE = rtstruct.Style.of_organs(TRUTH_LABELS.values(), "Mus musculus")


@dataclass(frozen=True, slots=True)
class PhantomRequest:
    """Which mouse to make, and how its scanner stores it.

    Attributes
    ----------
    size_mm : field of view, z y x of the animal
    neighbour : a second animal lies beside the first
    contrast : the animal was given a contrast agent
    position : PatientPosition, which then states truly how the animal lies. The bed is on the
        back's side for supine, on the belly's for prone; an animal on its side takes the bed
        along. By default HFS or HFP, as the seed decides
    stack : "axial", "coronal" or "sagittal"
    turned : "x", "y" or "z": half a turn of the pixels about this axis that no tag states
    mirrored : "x", "y" or "z": a flip of the pixels along this axis that no tag states
    quirks : names in `limn.lab.phantoms.quirks.QUIRKS`
    animal : PatientID; by default PHANTOM and the seed
    occasion : the same phantom has other UIDs on another occasion

    Raises
    ------
    ConfigWrong
        For a negative seed, a size of no voxels, an unknown quirk, position, stack or axis, or
        quirks that exclude each other.
    """

    seed: int
    spacing_mm: float
    size_mm: tuple[float, float, float]
    neighbour: bool = False
    contrast: bool = False
    position: str | None = None
    stack: str = "axial"
    turned: str | None = None
    mirrored: str | None = None
    quirks: tuple[str, ...] = ()
    animal: str = ""
    occasion: str = ""

    def __post_init__(self) -> None:
        choose(self.quirks)
        _refuse_unknown(self)
        _refuse_size(self)
        if self.seed < 0:
            msg = f"seed {self.seed}: 0 or more expected"
            raise ConfigWrong(msg)

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Voxels of the field of view."""
        z, y, x = (round(mm / self.spacing_mm) for mm in self.size_mm)
        return (z, y, x)

    @property
    def prone(self) -> bool | None:
        """Whether the animal lies on its belly; None where the seed decides."""
        return {"S": False, "P": True}.get((self.position or "")[-1:])


@dataclass(frozen=True, slots=True, eq=False)
class PhantomFiles:
    """A phantom on disk.

    Attributes
    ----------
    series_dir : folder of DICOM files
    truth : labels on the grid of the series, in the order in which it is read; without the slices
        that a quirk removed
    slices : how many slices the series has
    position : PatientPosition of the animal
    flags : what limn's own reader finds odd about the series
    refusal : why limn's own reader refuses the series; empty if it does not
    """

    series_dir: Path
    truth: Labels
    slices: int
    position: str = "HFS"
    flags: tuple[str, ...] = ()
    refusal: str = ""


def synthesize(
    folder: Path, request: PhantomRequest, report: Callable[[str], None] = lambda _: None
) -> PhantomFiles:
    """Write one phantom mouse: ``dicom/``, ``rtstruct.dcm``, ``ct.nii.gz``, ``truth.nii.gz``.

    The structure set outlines the truth where it lies in the pixels of the series, in the
    coordinates of the series' own header, whatever the quirks. The two NIfTI files hold the
    volume before the quirks: no slice is missing and nothing is rounded.

    Parameters
    ----------
    report : called with each step before it begins

    Raises
    ------
    ConfigWrong
        If the folder is not empty or can't be written.
    """
    series_dir = _empty_folder(folder)
    report("painting the mouse")
    volume, truth, position = _scan(request)
    report(f"writing {len(volume.hu_zyx)} slices")
    identity = _identity(request, position)
    files = _write_series(volume, identity, choose(request.quirks), series_dir)
    write_image(folder / "ct.nii.gz", image_of(volume.hu_zyx, volume.grid))
    write_image(folder / "truth.nii.gz", image_of(truth.labels_zyx, truth.grid))
    report("outlining the truth")
    series, refusal = _read_back(files, series_dir, volume.grid)
    kept = sorted({k for file in files for k in file.slices})
    stored_truth = Labels(truth.labels_zyx[kept], series.grid, truth.organs)
    write_durably(folder / "rtstruct.dcm", _structure_set(series, stored_truth))
    return PhantomFiles(series_dir, stored_truth, len(kept), position, series.flags, refusal)


def show_phantom(folder: Path, request: PhantomRequest) -> None:
    """`synthesize` under a spinner, then a summary on the console."""
    console = Console(emoji=False, highlight=False, soft_wrap=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        task = bars.add_task("", total=None)

        def report(step: str) -> None:
            if console.is_terminal:
                bars.update(task, description=step)
            else:
                console.print(step)

        phantom = synthesize(folder, request, report)
    console.print(
        f"{phantom.slices} {request.stack} slices, {phantom.position}, "
        f"in {escape(one_line(phantom.series_dir))}"
    )
    truth = escape(one_line(folder / "rtstruct.dcm"))
    console.print(f"truth in {truth} and truth.nii.gz beside it")
    for verb, axis in (("turned about", request.turned), ("mirrored along", request.mirrored)):
        if axis is not None:
            console.print(f"the header is wrong on purpose: the pixels are {verb} {axis}")
    if phantom.flags:
        console.print(f"limn flags the series: {escape(', '.join(phantom.flags))}")
    if phantom.refusal:
        console.print(f"limn refuses the series: {escape(phantom.refusal)}")


def quirk_table() -> str:
    """Every quirk and what it does, one per line."""
    width = max(len(name) for name in QUIRKS)
    return "\n".join(f"{name:{width}}  {quirk.meaning}" for name, quirk in QUIRKS.items())


def _refuse_unknown(request: PhantomRequest) -> None:
    """Raise for a position, stack or axis that does not exist."""
    for name, value, known in (
        ("position", request.position, orientation.POSITIONS),
        ("stack", request.stack, orientation.STACKS),
        ("turned", request.turned, ("x", "y", "z")),
        ("mirrored", request.mirrored, ("x", "y", "z")),
    ):
        if value is not None and value not in known:
            msg = f"{name} {value!r}: one of {', '.join(known)} expected"
            raise ConfigWrong(msg)


def _refuse_size(request: PhantomRequest) -> None:
    """Raise for a field of view with too few or too many voxels."""
    spacing_mm, size_mm = request.spacing_mm, request.size_mm
    finite = all(np.isfinite(mm) for mm in (spacing_mm, *size_mm))
    if not finite or spacing_mm <= 0 or min(size_mm) < 4 * spacing_mm:
        msg = f"spacing {spacing_mm} mm, size {size_mm} mm: at least 4 voxels a side expected"
        raise ConfigWrong(msg)
    z, y, x = request.shape_zyx
    if z * y * x > MAX_VOXELS:
        msg = f"{z} x {y} x {x} voxels need {z * y * x * 32 / 1e9:.0f} GB; give a larger --spacing"
        raise ConfigWrong(msg)


def _empty_folder(folder: Path) -> Path:
    writable(folder)
    series_dir = writable(folder / "dicom")
    if any(series_dir.iterdir()):
        msg = f"{series_dir} is not empty; two animals would mix, give another folder"
        raise ConfigWrong(msg)
    return series_dir


def _scan(request: PhantomRequest) -> tuple[Volume, Labels, str]:
    """The volume and the truth as the scanner stacks them, and the PatientPosition."""
    mouse = conceive(
        request.seed,
        prone=request.prone,
        neighbour=request.neighbour,
        contrast=request.contrast,
    )
    position = request.position or ("HFP" if mouse.prone else "HFS")
    mm = request.spacing_mm
    scanner = Scanner(SpacingMm(mm, mm, mm), request.shape_zyx, CHEST_XYZ_MM)
    volume, truth = scan(mouse, scanner, request.seed)
    if request.turned is not None:
        volume, truth = orientation.turn_pixels(volume, truth, request.turned)
    if request.mirrored is not None:
        volume, truth = orientation.mirror_pixels(volume, truth, request.mirrored)
    volume, truth = orientation.restack(volume, truth, position, request.stack)
    return volume, truth, position


def _identity(request: PhantomRequest, position: str) -> CtIdentity:
    """The names and UIDs of the series; equal requests give equal UIDs."""
    everything = (
        request.seed,
        request.spacing_mm,
        request.shape_zyx,
        request.neighbour,
        request.contrast,
        position,
        request.stack,
        request.turned,
        request.mirrored,
        sorted(request.quirks),
        *((request.animal, request.occasion) if request.animal or request.occasion else ()),
    )
    return CtIdentity(
        animal=request.animal or f"PHANTOM-{request.seed}",
        uid_root=uid_from(f"phantom|{everything}"),
        when=WHEN,
        patient_position=position,
    )


def _write_series(
    volume: Volume, identity: CtIdentity, quirks: Sequence[Quirk], series_dir: Path
) -> Files:
    """Write the series with its quirks to disk; return the files as they were written."""
    files = [
        SeriesFile(f"ct_{k + 1:04d}.dcm", ds, (k,))
        for k, ds in enumerate(ct_instances(volume, identity))
    ]
    for quirk in quirks:
        files = quirk.apply(files)
    save(files, series_dir)
    return files


def _read_back(files: Files, series_dir: Path, grid: Grid) -> tuple[Series, str]:
    """The series as limn's own reader assembles it, and "".

    If the reader refuses: the series on its true grid, and the reason.
    """
    # A file that is there twice counts once, as it does when the node receives it.
    unique = list({str(file.ds.SOPInstanceUID): file for file in files}.values())
    instances = read_headers([series_dir / file.name for file in unique])
    try:
        cts = [instance for instance in instances if instance.header.Modality == "CT"]
        return assemble(cts), ""
    except RefusedSeries as error:
        return _on_true_grid(unique, instances, grid), str(error)


def _on_true_grid(files: Files, instances: Sequence[Instance], grid: Grid) -> Series:
    """A series that limn's reader refuses, on the grid that the phantom was painted on."""
    slices = {}
    for file, instance in zip(files, instances, strict=True):
        if file.slices:
            frames = planes(instance.header)
            for k, (frame, plane) in zip(file.slices, frames, strict=True):
                slices[k] = Slice(instance.header, plane, instance.path, frame)
    kept = sorted(slices)
    remaining = Grid(
        slice_origins_xyz_mm=grid.slice_origins_xyz_mm[kept],
        rows=grid.rows,
        columns=grid.columns,
        spacing_y_mm=grid.spacing_y_mm,
        spacing_x_mm=grid.spacing_x_mm,
        along_x_xyz=grid.along_x_xyz,
        along_y_xyz=grid.along_y_xyz,
    )
    return Series(tuple(slices[k] for k in kept), remaining, np.array(kept, dtype=np.int64), ())


def _structure_set(series: Series, truth: Labels) -> bytes:
    """The truth as a structure set whose label and description name it as such."""
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
        _remove_algorithm(roi)
    return rtstruct.to_bytes(ds)


def _remove_algorithm(roi: Dataset) -> None:
    """Remove the name of an algorithm: no algorithm found these outlines."""
    roi.ROIGenerationAlgorithm = ""
    del roi.ROIDerivationAlgorithmIdentificationSequence
