"""Prints what persons changed in the contours that came back (`limn log --edits`)."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from limn.domain.edits.corrections import CorrectedScan
from limn.domain.errors import ConfigWrong
from limn.domain.spreadsheet import neutral_cell
from limn.node.commissioning import PREFIX, is_commissioning
from limn.node.config import load_config
from limn.node.operate.history.choice import Choice
from limn.node.operate.history.scans import LoggedScan, logged_scan
from limn.node.operate.journal_access import journal_to_read, plain_console
from limn.node.store.journal.edits.rows import Change, EditedRoi, ReturnedState, ScanEdit
from limn.node.store.journal.edits.words import drift_words, moved_words, words_of
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.rows import ScanRow

_OF_SCAN = ("scan_id", "animal", "scanner", "came_utc", "editor", "software", "file", "outcome")
COLUMNS = (*_OF_SCAN, *EditedRoi.__dataclass_fields__)
# A terminal with this many columns shows figures apart.
WIDE = 140
ACCEPTED = "accepted as it was"
# A choice by these asks for what the scan log has, and no row of a scan that is not in it.
_LOGGED = ("light", "flag", "without", "slower_s", "bundle")


def show_edits(config_path: Path, choice: Choice, *, as_csv: bool, last: int) -> None:
    """Print each ROI of the chosen scans that came back, oldest first, and what drifts.

    Phantoms that commission the node are listed only where an animal is chosen.

    Parameters
    ----------
    choice : by day, animal and scanner
    last : how many structure sets; 0 for all. With ``as_csv`` all are printed

    Raises
    ------
    ConfigWrong
        If the choice asks for what only the scan log knows.
    """
    if asked := [name for name in _LOGGED if getattr(choice, name)]:
        name = asked[0].replace("slower_s", "slower-than")
        msg = f"--edits and --{name}: edits are chosen by --since, --until, --animal and --scanner"
        raise ConfigWrong(msg)
    config = load_config(config_path)
    with journal_to_read(config) as journal:
        found = [] if journal is None else list(_chosen(journal.edits(), choice))
        edits = found if choice.animal else [each for each in found if is_of_animal(each)]
        if as_csv:
            _write_csv(edits)
            return
        left_out = len(found) - len(edits)
        if last:
            edits = edits[-last:]
        console = plain_console(soft_wrap=False)
        console.print(_table(edits, wide=console.width >= WIDE))
        if journal is None:
            return
        for line in (*_phantoms(left_out), *_others(journal), *_drifts(journal)):
            console.print(line, soft_wrap=True)


def outcome_of(edit: ScanEdit) -> str:
    """What a person did with the whole structure set, in a word."""
    return "accepted" if edit.accepted else "edited"


def came(edit: ScanEdit) -> str:
    """When it came, UTC, to the minute."""
    return datetime.fromtimestamp(edit.came_at, UTC).strftime("%Y-%m-%d %H:%M")


def _chosen(edits: Iterable[ScanEdit], choice: Choice) -> Iterator[ScanEdit]:
    for edit in edits:
        if choice.of([_as_logged(edit)]):
            yield edit


def _as_logged(edit: ScanEdit) -> LoggedScan:
    utc = datetime.fromtimestamp(edit.last_slice_at, UTC).isoformat(timespec="seconds")
    row = {"scan_id": edit.name, "animal": edit.animal, "sender": edit.sender}
    return logged_scan(row | {"last_slice_utc": utc})


def _table(edits: Sequence[ScanEdit], *, wide: bool) -> Table:
    """A line for each ROI, one for what nobody changed; in words on a narrow terminal."""
    count = len(edits)
    table = Table(
        title=f"{count} structure set{'' if count == 1 else 's'} came back", box=SIMPLE_HEAD
    )
    if not wide:
        for name in ("scan", "ROI"):
            table.add_column(name, no_wrap=True)
        table.add_column("what was changed")
        for edit in edits:
            if _is_untouched(edit):
                table.add_row(edit.name, "all", ACCEPTED)
                continue
            for number, roi in enumerate(edit.rois):
                table.add_row("" if number else edit.name, roi.roi, words_of(roi))
        return table
    for name in ("scan", "animal", "came UTC", "by", "ROI", "what"):
        table.add_column(name, no_wrap=name not in ("what", "by"))
    for name in ("DSC", "95 % HD mm", "added mm", "volume %"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("where it moved")
    for edit in edits:
        head = (edit.name, edit.animal, came(edit), edit.editor)
        if _is_untouched(edit):
            table.add_row(*head, "all", ACCEPTED, *("",) * 5)
            continue
        for number, roi in enumerate(edit.rois):
            table.add_row(*(head if number == 0 else ("",) * 4), roi.roi, *_cells(roi))
    return table


def _is_untouched(edit: ScanEdit) -> bool:
    """Whether every ROI came back, and none was changed."""
    return bool(edit.rois) and all(each.change is Change.SAME for each in edit.rois)


def _cells(roi: EditedRoi) -> tuple[str, ...]:
    if roi.change is not Change.EDITED:
        what = words_of(roi) if roi.change is not Change.SAME else "unchanged"
        return (what, *("",) * 5)
    volume = ""
    if roi.volume_before_mm3 and roi.volume_mm3 is not None:
        volume = f"{100 * (roi.volume_mm3 / roi.volume_before_mm3 - 1):+.1f}"
    return (
        "edited",
        _number(roi.dsc, 3),
        _number(roi.hd95_mm, 2),
        _number(roi.added_path_mm, 1),
        volume,
        moved_words(roi),
    )


def _number(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"


def is_of_animal(edit: ScanEdit) -> bool:
    """Whether it is of no phantom that commissions the node: nobody corrected those."""
    return not is_commissioning(edit.animal)


def _phantoms(count: int) -> Iterator[str]:
    if count:
        yield (
            f"{count} of phantoms that commissioned the node left out; "
            f'--animal "{PREFIX}*" lists them'
        )


def _others(journal: JournalReader) -> Iterator[str]:
    """What came back and was not measured."""
    for row in journal.returned_files():
        if row.state is ReturnedState.WAITING:
            yield f"returned/{row.file} waits until no scan runs"
        elif row.state is not ReturnedState.MEASURED:
            yield f"returned/{row.file} {row.state}: {row.reason}"


def _drifts(journal: JournalReader) -> Iterator[str]:
    for each in journal.drifts():
        if each.since is not None:
            yield f"DRIFT {drift_words(each)}"


def _write_csv(edits: Iterable[ScanEdit]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    for edit in edits:
        at = datetime.fromtimestamp(edit.came_at, UTC).isoformat(timespec="seconds")
        head = (edit.name, edit.animal, edit.scanner, at, edit.editor, edit.software, edit.file)
        for roi in edit.rois:
            values = (getattr(roi, name) for name in EditedRoi.__dataclass_fields__)
            cells = (*head, outcome_of(edit), *("" if each is None else each for each in values))
            writer.writerow([neutral_cell(each) for each in cells])


def corrected_scans(config_path: Path) -> list[CorrectedScan]:
    """The scans whose structure set came back, with where their files lie; the last of each.

    Not the phantoms that commission the node.

    Raises
    ------
    ConfigWrong
        If the site keeps no structure sets that came back, or none is of a scan of this node.
    """
    config = load_config(config_path)
    if config.returned.keep != "all":
        msg = (
            f'returned.keep = "{config.returned.keep}": this site gives no contours that came back '
            "to a data set"
        )
        raise ConfigWrong(msg)
    with journal_to_read(config) as journal:
        edits = [] if journal is None else journal.edits()
        last = {edit.scan: edit for edit in edits if is_of_animal(edit)}
        found = [
            _corrected(
                edit,
                journal.scan(edit.scan),
                config.returned_dir,
                several=len(journal.animals_of(edit.scan)) > 1,
            )
            for edit in last.values()
            if journal is not None
        ]
    if not found:
        msg = f"no structure set of a scan of {config.data_dir} has come back; limn log --edits"
        raise ConfigWrong(msg)
    return sorted(found, key=lambda each: each.scan)


def _corrected(edit: ScanEdit, row: ScanRow, folder: Path, *, several: bool) -> CorrectedScan:
    return CorrectedScan(
        scan=edit.name,
        animal=row.animal_name or row.animal,
        several=several,
        slices=tuple(Path(row.folder) / name for name in row.files),
        structure_set=folder / edit.file,
        organs={
            each.organ: each.came_as
            for each in edit.rois
            if each.organ and each.change is not Change.ABSENT
        },
        absent=tuple(
            each.organ for each in edit.rois if each.organ and each.change is Change.ABSENT
        ),
        accepted=edit.accepted,
        editor=edit.editor,
        came_utc=datetime.fromtimestamp(edit.came_at, UTC).isoformat(timespec="seconds"),
        bundle_sha256=edit.bundle_sha256,
        dsc={each.organ: each.dsc for each in edit.rois if each.organ and each.dsc is not None},
    )
