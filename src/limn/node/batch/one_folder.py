"""One folder of DICOM to a structure set and a picture, without network or journal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from limn import __version__
from limn.dicom.for_destination import AnimalFile, join_animals
from limn.dicom.rtstruct import Identity, Style
from limn.dicom.uids import uid_from
from limn.domain.errors import ConfigWrong, LimnError, StageFailed
from limn.domain.files import write_durably
from limn.domain.folders import writable
from limn.domain.forms import BY_C_STORE, RTSTRUCT, Form
from limn.domain.light import Light
from limn.domain.scan import Organ
from limn.domain.shipped import EMBEDDED_BUNDLE
from limn.domain.timing import RUNTIME_STAGES, Stopwatch
from limn.node.batch.source import opened
from limn.node.config import Config, FolderDestination, Model, load_config
from limn.node.contour.animal_names import AnimalName, name_of
from limn.node.contour.pipeline import (
    OpenScan,
    Options,
    Product,
    contour,
    contour_each,
    open_scan,
)
from limn.node.contour.site_bundle import algorithm_of, label_of
from limn.node.contour.work.forms import write_forms
from limn.node.contour.work.warm import options_of, warm_up
from limn.segment.bundle.bundle import Bundle, open_bundle
from limn.segment.draw.animals.choose import ChoiceRule
from limn.segment.draw.animals.located import Place
from limn.segment.engine.ensemble import Ensemble

# An animal, what came of it, and its files.
_Animal: TypeAlias = tuple[AnimalName, Product | LimnError, list[Path]]
# The animal of a scan that is not asked for more.
ONLY = Place(1, 1, (0.0, 0.0, 0.0))


def contour_folder(
    source: Path,
    out: Path,
    config: Config,
    forms: Collection[Form] = RTSTRUCT,
    lie: str = "",
    *,
    one_file: bool = False,
) -> None:
    """Contour one scan; write ``picture.png`` and the forms that are wanted, such as ``RS.dcm``.

    A structure set that a node would hold is written too, with a warning: nothing is sent. If the
    site wants each animal in the field, those of the second one go to ``animal-2``, and so on.

    Parameters
    ----------
    one_file : ``RS.dcm`` has every animal, and no other folder has one

    Raises
    ------
    ConfigWrong
        If ``out`` can't be written.
    RefusedSeries
        If the source holds no series, several, or one that can't be contoured.
    """
    console = Console(emoji=False)
    writable(out)
    stopwatch = Stopwatch()
    with (
        Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console
        ) as bars,
        ExitStack() as stack,
    ):
        bar = bars.add_task("reading", total=None)
        keep_in = out / "ct" if one_file or set(BY_C_STORE) & set(forms) else None
        scan = stack.enter_context(opened(source, lie, keep_in, console))
        bundle = open_bundle(config.model.bundle)
        options = replace(options_of(config, bundle), delivered=False)
        # Before the networks are loaded: a scan of a wrong size is refused at once.
        image = open_scan(scan.instances, bundle.species, options, stopwatch)
        bars.update(bar, description="loading the ensemble")
        ensemble = warm_up(config).ensemble
        bars.update(bar, description="contouring")
        work = Work(image, ensemble, config, options, stopwatch)
        animals = work.run(lambda done, total: bars.update(bar, completed=done, total=total))
        found, failures = list[_Animal](), []
        for name, product in animals:
            files, failure = _written(product, name, out, options.style, forms)
            found.append((name, product, files))
            failures += [failure] if failure is not None else []
    if one_file:
        failures += _join(found, out)
    console.print(_stages(stopwatch))
    _print_each(found, console)
    if scan.ct is not None and keep_in is not None:
        console.print(f"CT series      {keep_in}, to which the DICOM files refer")
    if failures:
        raise failures[0]


def _print_each(found: Sequence[_Animal], console: Console) -> None:
    for name, product, files in found:
        if name.place.of > 1:
            console.print(f"\n{name.words}", markup=False)
        if isinstance(product, LimnError):
            console.print(f"NOT CONTOURED: {product}", style="bold red", markup=False)
        else:
            _print(product, files, console)


def _join(found: Sequence[_Animal], out: Path) -> list[LimnError]:
    """Put the structure sets of all animals into one file; returns what kept it from that."""
    products = [(name, product) for name, product, _ in found if isinstance(product, Product)]
    if len(found) < 2 or not products:
        return []
    try:
        joined = one_file_of(products, found[0][0].place.of)
    except LimnError as error:
        return [error]
    for name, _, files in found:
        own = animal_folder(out, name.place.number) / "RS.dcm"
        own.unlink(missing_ok=True)
        files[:] = [path for path in files if path != own]
    write_durably(out / "RS.dcm", joined)
    next(files for _, product, files in found if isinstance(product, Product)).append(
        out / "RS.dcm"
    )
    return []


def one_file_of(animals: Sequence[tuple[AnimalName, Product]], of: int) -> bytes:
    """The structure sets of several animals in a field as one file.

    Raises
    ------
    LimnError
        If it can't be made; see `limn.dicom.for_destination.join_animals`.
    """
    there = {name.place.number for name, _ in animals}
    absent = [f"animal {number}" for number in range(1, of + 1) if number not in there]
    why = f"{', '.join(absent)}, not contoured" if absent else ""
    parts = [
        AnimalFile(name.place.number, name.name, product.structure_set) for name, product in animals
    ]
    uids = "|".join(product.identity.sop_instance_uid for _, product in animals)
    return join_animals(parts, uid_from(f"all animals|{uids}"), of, absent=why)


def animal_folder(out: Path, number: int) -> Path:
    """Where the files of an animal in the field go."""
    return out if number == 1 else out / f"animal-{number}"


def _written(
    product: Product | LimnError, name: AnimalName, out: Path, style: Style, forms: Collection[Form]
) -> tuple[list[Path], LimnError | None]:
    """The files of an animal, or what kept it from being contoured or written."""
    if isinstance(product, LimnError):
        return [], product
    try:
        return write_forms(animal_folder(out, name.place.number), product, style, forms), None
    except StageFailed as error:
        return [], error


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A series that is read, and what contours it."""

    scan: OpenScan
    ensemble: Ensemble
    config: Config
    options: Options
    stopwatch: Stopwatch

    def run(
        self, progress: Callable[[int, int], None]
    ) -> Iterator[tuple[AnimalName, Product | LimnError]]:
        """Contour one animal, or each."""
        if self.options.two_animals != "each":
            identity = self._identity(ONLY)
            yield (
                AnimalName("", ONLY),
                contour(self.scan, self.ensemble, identity, self.options, self.stopwatch, progress),
            )
            return
        for place, product in contour_each(
            self.scan,
            self.ensemble,
            lambda place: (self._identity(place), ""),
            self.options,
            self.stopwatch,
            progress,
        ):
            yield self._name(place), product

    def _name(self, place: Place) -> AnimalName:
        return name_of(place, self.config.model, self.scan.series.first)

    def _identity(self, place: Place) -> Identity:
        uid = str(self.scan.series.first.SeriesInstanceUID)
        identity, name = _identity(uid, self.config, self.ensemble.bundle, place), self._name(place)
        return replace(identity, label=name.label(identity.label), animal=name.words)


def _identity(series_instance_uid: str, config: Config, bundle: Bundle, place: Place) -> Identity:
    now = datetime.now(UTC).astimezone()
    seed = f"{series_instance_uid}|{bundle.sha256}"
    seed += f"|animal {place.number}" if place.number > 1 else ""
    return Identity(
        sop_instance_uid=uid_from(f"{seed}|{now}"),
        series_instance_uid=uid_from(seed),
        date=now.strftime("%Y%m%d"),
        time=now.strftime("%H%M%S"),
        label=label_of(config, bundle),
        software=__version__,
        algorithm=algorithm_of(bundle),
        algorithm_version=bundle.sha256,
    )


def _print(product: Product, files: Sequence[Path], console: Console) -> None:
    console.print(_organs(product))
    if product.flags:
        console.print(f"flags: {', '.join(product.flags)}", markup=False)
    for concern in product.verdict.concerns:
        if concern.light is Light.AMBER:
            console.print(f"{concern.light}: {concern.reason}", markup=False)
    for path in files:
        kind = {"RS.dcm": "structure set", "picture.png": "picture"}.get(path.name, "")
        console.print(f"{kind:14} {path}", markup=False, soft_wrap=True)
    if product.held is not None:
        # Last, so that a person reads it.
        console.print(
            f"WARNING: {product.held}. A node would hold this structure set until somebody has "
            "looked; look at the picture before you use it.",
            style="bold red",
            markup=False,
        )


def site_config(
    out: Path, bundle: Path | None, config_path: Path | None, two_animals: ChoiceRule | None = None
) -> Config:
    """The site's config, or one that only contours with a bundle into a folder.

    Raises
    ------
    ConfigWrong
        If both the config and the caller say which of several animals counts.
    """
    if config_path is not None:
        if two_animals is not None:
            msg = f"--two-animals {two_animals}: with --config it is model.two_animals in that file"
            raise ConfigWrong(msg)
        return load_config(config_path)
    return Config(
        data_dir=out,
        model=Model(bundle=bundle or EMBEDDED_BUNDLE, two_animals=two_animals or "largest"),
        destination=(FolderDestination(kind="folder", name="out", folder=out),),
    )


def _organs(product: Product) -> Table:
    table = Table()
    table.add_column("organ")
    table.add_column("mm3", justify="right")
    table.add_column("voxels removed", justify="right")
    table.add_column("light")
    table.add_column("predicted DSC", justify="right")
    for organ, mm3 in product.volumes_mm3.items():
        removed = str(product.removed_voxels[organ])
        light = str(product.verdict.light_of(organ) or "-")
        table.add_row(organ, f"{mm3:.1f}", removed, light, _predicted(product, organ))
    return table


def _predicted(product: Product, organ: Organ) -> str:
    """The predicted DSC of an organ with its interval."""
    quality = product.verdict.quality.get(organ)
    if quality is None:
        return "-"
    return f"{quality.dsc.middle:.2f} ({quality.dsc.low:.2f} to {quality.dsc.high:.2f})"


def _stages(stopwatch: Stopwatch) -> Table:
    table = Table()
    table.add_column("stage")
    table.add_column("s", justify="right")
    for stage, elapsed_s in stopwatch.elapsed_s.items():
        table.add_row(stage, f"{elapsed_s:.2f}")
    table.add_section()
    runtime_s = sum(stopwatch.elapsed_s.get(stage, 0.0) for stage in RUNTIME_STAGES)
    table.add_row("runtime_s (as the paper)", f"{runtime_s:.2f}")
    return table
