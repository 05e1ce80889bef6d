"""Bundles for people: what is installed, verified, installed, packed, imported from nnU-Net."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from limn.bundles.importing import ImportOptions, import_to, tell_installed
from limn.domain.errors import BundleUnfit, LimnError
from limn.segment.bundle import shelf
from limn.segment.bundle.bundle import MANIFEST, glance, open_bundle
from limn.segment.bundle.shelf import EMBEDDED_BUNDLE, models_dir

if TYPE_CHECKING:
    pass


def show_list(given: Path | None) -> None:
    """Every installed bundle and the embedded one; nothing is verified."""
    console = Console()
    folder = models_dir(given)
    table = Table()
    for column in ("bundle", "configuration", "folds", "axes", "mm", "profile", "sha256"):
        table.add_column(column, overflow="fold", no_wrap=column in ("sha256", "axes", "mm"))
    faults = []
    try:
        embedded = [glance(EMBEDDED_BUNDLE)]
    except BundleUnfit:
        embedded = []
    for found in [*shelf.bundles(folder), *embedded]:
        if isinstance(found, BundleUnfit):
            faults.append(str(found))
            continue
        table.add_row(
            escape(f"{found.label} (demonstration)" if found.demonstration else found.label),
            escape(found.configuration),
            str(len(found.folds)),
            found.orientation,
            "/".join(dict.fromkeys(f"{mm:g}" for mm in found.spacing_mm.zyx)),
            found.profile,
            found.sha256[:8],
        )
    console.print(table)
    console.print(f"in {folder}; not verified, see 'limn models verify'", highlight=False)
    for fault in faults:
        console.print(f"[red]no bundle[/] {escape(fault)}", highlight=False)


def verify(given: Path | None, names: list[str]) -> bool:
    """Hash again, build and fill every network, ask it what it was asked at its import."""
    from limn.segment.importing.known_answers import rehearse  # noqa: PLC0415

    console = Console(highlight=False)
    folder = models_dir(given)
    standing = {EMBEDDED_BUNDLE.name: EMBEDDED_BUNDLE}
    chosen = [shelf.find(folder, name, standing) for name in names]
    if not names:
        chosen = [*shelf.folders(folder), EMBEDDED_BUNDLE]
    sound = True
    for path in chosen:
        try:
            bundle = open_bundle(path)
            told = rehearse(bundle)
        except LimnError as error:
            console.print(f"[red]FAIL[/] {escape(str(error))}")
            sound = False
            continue
        answers = f"{told.folds} folds answer"
        if told.difference is None:
            answers += "; no golden answers were recorded"
        else:
            answers += f" as recorded, max |difference| {told.difference:.2g}"
        if not told.sound:
            console.print(
                f"[red]FAIL[/] {escape(str(path))}: {told.folds} folds answer otherwise than "
                f"recorded, max |difference| {told.difference:.2g} of {told.largest:.2g}; do not "
                "use it here"
            )
            sound = False
            continue
        said = f"{bundle.label}: {len(bundle.files)} files; {answers}"
        console.print(f"[green] ok [/] {escape(said)}")
    return sound


def install(given: Path | None, source: Path) -> None:
    """Put a bundle, folder or zip, among the installed ones."""
    if not source.exists():
        msg = f"{source} does not exist"
        raise BundleUnfit(msg)
    if source.is_dir() and not (source / MANIFEST).is_file():
        msg = (
            f"{source} has no {MANIFEST}: it is no bundle. A result folder of nnU-Net comes in by "
            f"'limn models import {source}'"
        )
        raise BundleUnfit(msg)
    tell_installed(Console(highlight=False), shelf.install(source, models_dir(given)))


def pack(source: Path, out: Path | None, asked: ImportOptions) -> None:
    """One zip of a bundle, or of a result folder of nnU-Net made a bundle first."""
    console = Console(highlight=False)
    if (source / MANIFEST).is_file():
        _pack(console, source, out)
        return
    with shelf.incoming(Path.cwd() if out is None else out.absolute().parent) as work:
        _pack(console, import_to(source, work / "bundle", asked, console), out)


def _pack(console: Console, folder: Path, out: Path | None) -> None:
    bundle = glance(folder)
    archive = out or Path(f"{bundle.label}.zip")
    shelf.pack_bundle(folder, archive)
    said = f"packed {bundle.label} as {archive}; elsewhere: limn models install {archive}"
    console.print(said, markup=False, soft_wrap=True)
