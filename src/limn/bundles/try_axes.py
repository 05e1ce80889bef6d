"""Shows a DICOM series to a network in every orientation, to find that of its training."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from limn.dicom.folder import one_series
from limn.dicom.series import assemble
from limn.dicom.volume import read_volume
from limn.domain.shipped import EMBEDDED_BUNDLE
from limn.segment.bundle.bundle import Bundle, open_bundle
from limn.segment.draw.animals.choose import keep_one_animal
from limn.segment.engine.localisation.orient import AS_IN_HEADER, Finder
from limn.segment.importing.axis_search import AxisTrial, search_axes


def try_model(bundle: Bundle, folder: Path, console: Console) -> list[AxisTrial]:
    """Try every order and flip of the axes; the best comes first.

    The embedded bundle's onlooker finds in the image how the animal lies in the scan.

    Raises
    ------
    RefusedSeries
        If the folder holds no series that can be contoured.
    """
    series = assemble(one_series(folder, console), assume_hu=False)
    located = keep_one_animal(read_volume(series, bridged=True), "largest")
    lie = AS_IN_HEADER
    embedded = open_bundle(EMBEDDED_BUNDLE)
    if embedded.onlooker is not None:
        lie = Finder.load(embedded.folder / embedded.onlooker).find(located.coarse_spl)
        if not lie.as_in_header:
            console.print(f"[yellow]note:[/] the animal lies {lie.words}; turned straight")
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console
    ) as bars:
        bar = bars.add_task("trying every way", total=None)
        return search_axes(
            bundle,
            lie.straighten(located.volume),
            lambda done, total: bars.update(bar, completed=done, total=total),
        )
