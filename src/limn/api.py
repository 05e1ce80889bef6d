"""What `import limn` gives a script: a scan is contoured, or many on a model that stays warm.

It stands on the node's own pipeline: a script's contours are those that a node would deliver.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from rich.console import Console

from limn.dicom.rtstruct import Style
from limn.dicom.series import assemble
from limn.dicom.volume import read_volume
from limn.domain.errors import ConfigWrong, LimnError
from limn.domain.forms import BY_C_STORE, RTSTRUCT, Form
from limn.domain.shipped import EMBEDDED_BUNDLE, bundle_named
from limn.domain.timing import Stopwatch
from limn.formats.label_files import image_of
from limn.node.batch.one_folder import Work, one_file_of, site_config
from limn.node.batch.source import opened
from limn.node.contour.animal_names import AnimalName
from limn.node.contour.pipeline import open_scan
from limn.node.contour.work.forms import Evened, forms_of, write_forms

if TYPE_CHECKING:
    import SimpleITK

    from limn.node.contour.pipeline import Product
    from limn.node.contour.work.warm import Warm

Source = str | os.PathLike[str]
Progress = Callable[[int, int], None]
# The animals of a field that a script asks for.
Animals = Literal["largest", "central", "refuse", "each"]


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """A scan that was read.

    Attributes
    ----------
    hu_zyx : (z, y, x) float32, HU as its headers say; a missing slice is interpolated
    spacing_mm : along z, y, x
    animal : PatientID
    image : the same as an image with its place in patient coordinates (LPS)
    """

    hu_zyx: npt.NDArray[np.float32]
    spacing_mm: tuple[float, float, float]
    animal: str
    image: SimpleITK.Image


@dataclass(frozen=True, slots=True)
class Roi:
    """One ROI of a scan.

    Attributes
    ----------
    name : in the structure set
    mean_hu : None if it has no voxel
    light : "green", "amber" or "red"; empty if nothing judged it
    predicted_dsc : low, middle and high of the DSC that the judge predicts; None without a judge
    """

    name: str
    volume_mm3: float
    mean_hu: float | None
    light: str
    predicted_dsc: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True, eq=False)
class Contours:
    """The contours of one animal.

    Attributes
    ----------
    animal : PatientID
    number, of : which of how many animals in the field it is
    labels_zyx : (z, y, x) uint8 on the voxels of `Scan.hu_zyx`; the axes of an image file may be
        turned, `image` and `nifti` say where each voxel lies
    names : of the labels
    rois : of the structure set, by name
    light : of the scan: "green", "amber" or "red"
    flags : see docs/flags.md
    concerns : what a person should know, in words, the worst first
    held : why a node would hold the structure set until a person has looked; None if it would not
    structure_set : an RTSTRUCT file
    picture : a PNG file
    seconds : that each stage took; of all animals together if there are several
    """

    animal: str
    number: int
    of: int
    labels_zyx: npt.NDArray[np.uint8]
    names: Mapping[int, str]
    rois: Mapping[str, Roi]
    light: str
    flags: tuple[str, ...]
    concerns: tuple[str, ...]
    held: str | None
    structure_set: bytes
    picture: bytes
    seconds: Mapping[str, float]
    _name: AnimalName
    _product: Product
    _style: Style
    # Of an image file; the folder is removed with the last object that needs it.
    _ct: TemporaryDirectory[str] | None = None

    @property
    def image(self) -> SimpleITK.Image:
        """The labels as an image with its place in patient coordinates (LPS)."""
        return image_of(self.labels_zyx, Evened(self._product.series).grid)

    def nifti(self) -> Any:
        """The labels as an image of nibabel (RAS)."""
        import nibabel  # noqa: PLC0415

        grid = Evened(self._product.series).grid
        affine = np.eye(4)
        affine[:3, 0] = grid.along_x_xyz * grid.spacing_x_mm
        affine[:3, 1] = grid.along_y_xyz * grid.spacing_y_mm
        affine[:3, 2] = grid.normal_xyz * grid.spacing_mm.z
        affine[:3, 3] = grid.slice_origins_xyz_mm[0]
        # From LPS to RAS.
        affine[:2] *= -1.0
        return nibabel.Nifti1Image(np.transpose(self.labels_zyx), affine)

    def save(self, folder: Source, forms: Collection[Form] = RTSTRUCT) -> list[Path]:
        """Write the picture and these forms into a folder; returns the files.

        Parameters
        ----------
        forms : any of "rtstruct", "seg", "nifti", "nrrd", "stl", "csv". With the first two of an
            image file the CT series to which they refer is written too, into ``ct``

        Raises
        ------
        LimnError
            If a form is unknown, or can't be written; what can be is.
        """
        chosen = forms_of(",".join(forms))
        target = Path(folder)
        if self._ct is not None and set(BY_C_STORE) & set(chosen):
            shutil.copytree(self._ct.name, target / "ct", dirs_exist_ok=True)
        return write_forms(target, self._product, self._style, chosen)


class Model:
    """A bundle that is loaded once and contours any number of scans.

    Parameters
    ----------
    bundle : folder or name; by default the embedded one, which is not for animals
    device : "auto", "cpu" or "cuda"
    animals : which of several in a field count
    config : of a site, instead of the other parameters: its bundle, ROIs, colours and rules

    Raises
    ------
    LimnError
        If the bundle can't be used, or the config is wrong.
    """

    def __init__(
        self,
        bundle: Source | None = None,
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        animals: Animals = "largest",
        config: Source | None = None,
    ) -> None:
        from limn.node.contour.work.warm import warm_up  # noqa: PLC0415

        if config is not None and (bundle is not None or device != "auto" or animals != "largest"):
            raise ConfigWrong(
                "a config says itself which bundle, device and animals; give it alone"
            )
        path = EMBEDDED_BUNDLE if bundle is None else bundle_named(os.fspath(bundle))
        site = None if config is None else Path(config)
        chosen = site_config(Path(), path, site, None if site else animals)
        if site is None:
            model = chosen.model.model_copy(update={"device": device})
            chosen = chosen.model_copy(update={"model": model})
        self._config = chosen
        self._warm: Warm = warm_up(chosen)

    @property
    def bundle(self) -> str:
        """Name and version of the bundle."""
        return self._warm.ensemble.bundle.label

    @property
    def organs(self) -> tuple[str, ...]:
        """The organs that it contours, in the order of their labels."""
        return tuple(self._warm.ensemble.bundle.organs.values())

    def contour(
        self, source: Source, *, lie: str = "", progress: Progress | None = None
    ) -> Contours:
        """Contour one animal of a scan; the first one if the model is for each.

        Parameters
        ----------
        source : a folder or zip of DICOM, a NIfTI, NRRD, MetaImage or Inveon file, or a folder of
            SkyScan sections
        lie : letters that the axes z, y, x of an image grow towards, if it does not say so
        progress : called with the tiles that are done and their total

        Raises
        ------
        LimnError
            If it can't be contoured: the message says why, and who must act.
        """
        return next(self.contour_each(source, lie=lie, progress=progress))

    def contour_each(
        self, source: Source, *, lie: str = "", progress: Progress | None = None
    ) -> Iterator[Contours]:
        """Contour the animals that the model is for, one after the other; as `contour`.

        The error of an animal that can't be contoured is raised after the others have come.
        """
        failure: LimnError | None = None
        # Not in the stack: contours of an image file need it as long as they live.
        ct = TemporaryDirectory(prefix="limn-ct-")
        with ExitStack() as stack:
            source = Path(source)
            scan = stack.enter_context(opened(source, lie, Path(ct.name), Console(stderr=True)))
            kept = ct if scan.ct is not None else None
            stopwatch, options = Stopwatch(), self._warm.options
            ensemble = self._warm.ensemble
            image = open_scan(scan.instances, ensemble.bundle.species, options, stopwatch)
            work = Work(image, ensemble, self._config, options, stopwatch)
            for name, product in work.run(progress or (lambda done, total: None)):
                if isinstance(product, LimnError):
                    failure = failure or product
                    continue
                yield _contours(product, name, stopwatch, options.style, kept)
        if failure is not None:
            raise failure


def one_file(animals: Sequence[Contours]) -> bytes:
    """The RTSTRUCT of several animals of one field; an ROI is named ``Heart^`` and the number.

    Parameters
    ----------
    animals : of `Model.contour_each`; one that is missing is named in StructureSetDescription

    Raises
    ------
    LimnError
        If there is none, or they are not of one series.
    """
    if not animals:
        raise ConfigWrong("no animal was given; give those of Model.contour_each")
    return one_file_of([(each._name, each._product) for each in animals], animals[0].of)


def contour(
    source: Source,
    bundle: Source | None = None,
    *,
    lie: str = "",
    progress: Progress | None = None,
) -> Contours:
    """Contour one scan. To contour several, make a `Model` once.

    Parameters and errors are those of `Model` and `Model.contour`.
    """
    return Model(bundle).contour(source, lie=lie, progress=progress)


def read(source: Source, *, lie: str = "") -> Scan:
    """Read a scan as limn reads it; parameters and errors as of `Model.contour`."""
    with ExitStack() as stack:
        scan = stack.enter_context(opened(Path(source), lie, None, Console(stderr=True)))
        series = assemble(scan.instances)
        volume = read_volume(series, bridged=True)
    image = image_of(volume.hu_zyx, volume.grid)
    return Scan(volume.hu_zyx, volume.grid.spacing_mm.zyx, series.animal, image)


def _contours(
    product: Product,
    name: AnimalName,
    stopwatch: Stopwatch,
    style: Style,
    ct: TemporaryDirectory[str] | None,
) -> Contours:
    verdict, volumes = product.verdict, product.rois.volumes_mm3()
    rois = {}
    for organ, roi_name in product.roi_names.items():
        if organ not in volumes:
            continue
        quality = verdict.quality.get(organ)
        dsc = None if quality is None else quality.dsc
        rois[roi_name] = Roi(
            roi_name,
            volumes[organ],
            product.mean_hu.get(organ),
            str(verdict.light_of(organ) or ""),
            None if dsc is None else (dsc.low, dsc.middle, dsc.high),
        )
    return Contours(
        product.series.animal,
        name.place.number,
        name.place.of,
        Evened(product.series).array(product.labels.labels_zyx),
        {label: str(organ) for label, organ in product.labels.organs.items()},
        rois,
        str(verdict.light),
        product.flags,
        tuple(each.reason for each in verdict.concerns),
        product.held,
        product.structure_set,
        product.picture,
        dict(stopwatch.elapsed_s),
        name,
        product,
        style,
        ct,
    )
