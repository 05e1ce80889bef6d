"""Hundreds of series to an output folder, resumable: what is done is not done again.

They run on the workers of a running node, behind every live scan, or in this process on one warm
ensemble. What became of a series stands beside its structure set, in ``limn.json``, and nowhere
else, so that a run may begin with a node and go on without one. Nothing of it is ever sent.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from limn.domain.errors import ConfigWrong, RefusedSeries
from limn.domain.folders import writable
from limn.domain.forms import RTSTRUCT, Form
from limn.node.batch.find_series import FoundSeries, find_series, holds_only_folders
from limn.node.batch.notes import TABLE, Note, Notes, write_tables
from limn.node.batch.one_folder import contour_folder, site_config
from limn.node.batch.source import stands_alone
from limn.node.config import Config
from limn.node.host.doorbell import engine_runs
from limn.node.host.step_back import step_back
from limn.segment.bundle.bundle import open_bundle
from limn.segment.draw.animals.choose import ChoiceRule


def contour_folders(
    folders: Sequence[Path],
    out: Path,
    bundle: Path | None,
    config_path: Path | None,
    two_animals: ChoiceRule | None = None,
    forms: Collection[Form] = RTSTRUCT,
    lie: str = "",
    *,
    one_file: bool = False,
    against: Path | None = None,
) -> bool:
    """Contour one folder as `contour_folder` does, or every series of many into ``out``.

    Parameters
    ----------
    against : the output folder of an earlier run, with which every scan is compared

    Returns
    -------
    Whether every series was contoured, now or before.

    Raises
    ------
    ConfigWrong
        If a folder is not one, or ``out`` can't be written.
    RefusedSeries
        If there is one folder and its one series can't be contoured, or there is no series.
    """
    alone = len(folders) == 1 and stands_alone(folders[0])
    _check_folders(folders, out, against, alone=alone)
    config = site_config(out, bundle, config_path, two_animals)
    if one_file and config.model.two_animals != "each":
        raise ConfigWrong("--one-file is for every animal in a field; add --two-animals each")
    # A file's name is text, never markup.
    console = Console(emoji=False, markup=False, highlight=False)
    one = len(folders) == 1
    if against is not None:
        # Nobody waits for it, and a node on this host may have live scans.
        step_back()
    search = not alone and (not one or against is not None or holds_only_folders(folders[0]))
    found = find_series(folders, out, console) if search else []
    if one and len(found) < 2 and against is None:
        contour_folder(folders[0], out, config, forms, lie, one_file=one_file)
        return True
    if lie or tuple(forms) != RTSTRUCT or one_file:
        raise ConfigWrong("--lie, --as and --one-file are for one scan; give one folder or file")
    if not found:
        msg = f"no CT image below {', '.join(map(str, folders))}"
        raise RefusedSeries(msg)
    try:
        return _contour_series(found, out, config, config_path, console, against)
    except OSError as error:
        msg = (
            f"{error.filename or out}: {error.strerror}; mend that and give the same command "
            "again, it goes on where it was"
        )
        raise ConfigWrong(msg) from error


def _check_folders(
    folders: Sequence[Path], out: Path, against: Path | None, *, alone: bool
) -> None:
    """Refuse what is no folder, and an output that would cover the run that it is compared with."""
    for folder in folders:
        if not folder.is_dir() and not alone:
            msg = f"{folder} is no folder, and no zip or image file that stands alone"
            raise ConfigWrong(msg)
    writable(out)
    if against is None:
        return
    if not against.is_dir():
        msg = f"--against {against} is no folder that an earlier run wrote"
        raise ConfigWrong(msg)
    if against.resolve() == out.resolve():
        msg = f"--against {against} is the output too and would be overwritten; give another -o"
        raise ConfigWrong(msg)


def _contour_series(
    found: Sequence[FoundSeries],
    out: Path,
    config: Config,
    config_path: Path | None,
    console: Console,
    against: Path | None,
) -> bool:
    """Contour what is not done yet, then print what became of every series."""
    bundle = open_bundle(config.model.bundle)
    notes = Notes(out, config, bundle.sha256)
    open_series = [each for each in found if not notes.is_done(each)]
    done_before = len(found) - len(open_series)
    node = config_path if config_path is not None and engine_runs(config) else None
    if node is not None:
        console.print("the node contours them, behind every live scan")
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as bars:
        bar = bars.add_task("contouring", total=len(found), completed=done_before)

        def report(text: str, done: int = 0) -> None:
            bars.update(bar, description=text, advance=done)

        # The two ways need Dask or the networks: one that is not gone is not imported.
        if open_series and node is not None:
            from limn.node.batch import on_node  # noqa: PLC0415

            on_node.contour_series(open_series, notes, config, node, report)
        elif open_series:
            from limn.node.batch import here  # noqa: PLC0415

            here.contour_series(open_series, notes, config, bundle, report)
    write_tables(out, notes.of(found))
    if against is not None:
        from limn.node.batch.against import write_differences  # noqa: PLC0415

        write_differences(found, notes, against, out, console)
    return _summary(notes.of(found), done_before, out / TABLE, console)


def _summary(notes: Sequence[Note], done_before: int, table: Path, console: Console) -> bool:
    """Print what a person should look at, and the counts; False if a series was not contoured."""
    contoured = [note for note in notes if note.outcome == "contoured"]
    bad = [note for note in notes if note.outcome != "contoured"]
    for note in notes:
        for line in note.left_out:
            console.print(f"{note.series}: left out {line}", soft_wrap=True)
        if note.held is not None:
            console.print(f"{note.series}: LOOK at picture.png: {note.held}", soft_wrap=True)
    alike: dict[tuple[str, str], list[str]] = {}
    for note in bad:
        why = next(reversed(note.reason.strip().splitlines()), "")
        alike.setdefault((note.outcome.upper(), why), []).append(note.series)
    for (outcome, why), series in alike.items():
        names = series if len(series) < 4 else [f"{len(series)} series, first {series[0]}"]
        for name in names:
            console.print(f"{name}: {outcome}: {why}", soft_wrap=True)
    console.print(
        f"{len(contoured)} of {len(notes)} series contoured"
        f"{f', {done_before} of them before' if done_before else ''}"
        f"{f', {len(bad)} not' if bad else ''}; table in {table}",
        soft_wrap=True,
    )
    return not bad
