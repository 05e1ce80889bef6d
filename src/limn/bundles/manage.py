"""List, verify, install and pack bundles for a person at a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from limn.bundles.importing import ImportOptions, import_to, print_installed, try_int8
from limn.domain.errors import BundleUnfit, LimnError
from limn.domain.shipped import EMBEDDED_BUNDLE, MANIFEST, models_dir
from limn.segment.bundle import shelf
from limn.segment.bundle.bundle import glance, open_bundle


def show_list(given: Path | None) -> None:
    """Print every installed bundle and the embedded one; nothing is verified."""
    console = Console(emoji=False)
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
    """Check the hashes, build every network and compare its answers with the recorded ones."""
    from limn.segment.importing.known_answers import check_answers  # noqa: PLC0415

    console = Console(emoji=False, highlight=False)
    folder = models_dir(given)
    embedded = {EMBEDDED_BUNDLE.name: EMBEDDED_BUNDLE}
    chosen = [shelf.find(folder, name, embedded) for name in names]
    if not names:
        chosen = [*shelf.folders(folder), EMBEDDED_BUNDLE]
    sound = True
    for path in chosen:
        try:
            bundle = open_bundle(path)
            check = check_answers(bundle)
        except LimnError as error:
            console.print(f"[red]FAIL[/] {escape(str(error))}")
            sound = False
            continue
        answers = f"{check.folds} folds answer"
        if check.difference is None:
            answers += "; no answers were recorded"
        else:
            answers += f" as recorded, max |difference| {check.difference:.2g}"
        if not check.sound:
            console.print(
                f"[red]FAIL[/] {escape(str(path))}: {check.folds} folds answer otherwise than "
                f"recorded, max |difference| {check.difference:.2g} of {check.largest:.2g}; do not "
                "use it here"
            )
            sound = False
            continue
        result = f"{bundle.label}: {len(bundle.files)} files; {answers}"
        console.print(f"[green] ok [/] {escape(result)}")
    return sound


def install(given: Path | None, source: Path) -> None:
    """Install a bundle, folder or zip."""
    if not source.exists():
        msg = f"{source} does not exist"
        raise BundleUnfit(msg)
    if source.is_dir() and not (source / MANIFEST).is_file():
        msg = (
            f"{source} has no {MANIFEST}: it is no bundle. Import a result folder of nnU-Net by "
            f"'limn models import {source}'"
        )
        raise BundleUnfit(msg)
    console = Console(emoji=False, highlight=False)
    target = shelf.install(source, models_dir(given))
    print_installed(console, target)
    try_int8(open_bundle(target), console)


def pack(source: Path, out: Path | None, options: ImportOptions) -> None:
    """Pack a bundle as one zip; a result folder of nnU-Net is made a bundle first."""
    console = Console(emoji=False, highlight=False)
    if (source / MANIFEST).is_file():
        _pack(console, source, out)
        return
    with shelf.incoming(Path.cwd() if out is None else out.absolute().parent) as work:
        _pack(console, import_to(source, work / "bundle", options, console), out)


def _pack(console: Console, folder: Path, out: Path | None) -> None:
    bundle = glance(folder)
    archive = out or Path(f"{bundle.label}.zip")
    shelf.pack_bundle(folder, archive)
    result = f"packed {bundle.label} as {archive}; elsewhere: limn models install {archive}"
    console.print(result, markup=False, soft_wrap=True)
