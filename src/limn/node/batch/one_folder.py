"""One folder of DICOM to a structure set and a picture, without network or journal."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from limn import __version__
from limn.dicom.folder import one_series
from limn.dicom.rtstruct import Identity
from limn.dicom.uids import uid_from
from limn.domain.errors import ConfigWrong
from limn.domain.files import write_durably
from limn.domain.folders import writable
from limn.domain.light import Light
from limn.domain.scan import Organ
from limn.domain.timing import RUNTIME_STAGES, Stopwatch
from limn.node.config import Config, FolderDestination, Model, load_config
from limn.node.contour.pipeline import Product, contour
from limn.node.contour.site_bundle import algorithm_of, label_of
from limn.node.contour.worker import warm_up
from limn.segment.bundle.bundle import Bundle
from limn.segment.bundle.shelf import EMBEDDED_BUNDLE


def contour_folder(folder: Path, out: Path, bundle: Path | None, config_path: Path | None) -> None:
    """Contour the one CT series in a folder; write ``RS.dcm`` and ``picture.png``.

    A structure set that a node would hold is written too, with a warning: nothing is sent.

    Raises
    ------
    ConfigWrong
        If ``folder`` is not one, or ``out`` can't be written.
    RefusedSeries
        If the folder holds no series, several, or one that can't be contoured.
    """
    console = Console(emoji=False)
    if not folder.is_dir():
        msg = f"{folder} is no folder"
        raise ConfigWrong(msg)
    writable(out)
    config = site_config(out, bundle, config_path)
    stopwatch = Stopwatch()
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console
    ) as bars:
        bar = bars.add_task("reading", total=None)
        instances = one_series(folder, console)
        bars.update(bar, description="loading the ensemble")
        warm = warm_up(config)
        bars.update(bar, description="contouring")
        product = contour(
            instances,
            warm.ensemble,
            _identity(str(instances[0].header.SeriesInstanceUID), config, warm.ensemble.bundle),
            replace(warm.options, delivered=False),
            stopwatch,
            lambda done, total: bars.update(bar, completed=done, total=total),
        )
    write_durably(out / "RS.dcm", product.structure_set)
    write_durably(out / "picture.png", product.picture)
    _print(product, stopwatch, out, console)


def _identity(series_instance_uid: str, config: Config, bundle: Bundle) -> Identity:
    now = datetime.now(UTC).astimezone()
    return Identity(
        sop_instance_uid=uid_from(f"{series_instance_uid}|{bundle.sha256}|{now}"),
        series_instance_uid=uid_from(f"{series_instance_uid}|{bundle.sha256}"),
        date=now.strftime("%Y%m%d"),
        time=now.strftime("%H%M%S"),
        label=label_of(config, bundle),
        software=__version__,
        algorithm=algorithm_of(bundle),
        algorithm_version=bundle.sha256,
    )


def _print(product: Product, stopwatch: Stopwatch, out: Path, console: Console) -> None:
    console.print(_organs(product))
    console.print(_stages(stopwatch))
    if product.flags:
        console.print(f"flags: {', '.join(product.flags)}", markup=False)
    for concern in product.verdict.concerns:
        if concern.light is Light.AMBER:
            console.print(f"{concern.light}: {concern.reason}", markup=False)
    console.print(f"structure set  {out / 'RS.dcm'}\npicture        {out / 'picture.png'}")
    if product.held is not None:
        # Last, so that a person reads it.
        console.print(
            f"WARNING: {product.held}. A node would hold this structure set until somebody has "
            "looked; look at the picture before you use it.",
            style="bold red",
            markup=False,
        )


def site_config(out: Path, bundle: Path | None, config_path: Path | None) -> Config:
    """The site's config, or one that only contours with a bundle into a folder."""
    if config_path is not None:
        return load_config(config_path)
    return Config(
        data_dir=out,
        model=Model(bundle=bundle or EMBEDDED_BUNDLE),
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
