"""With which bundles a scan can be contoured again, or why it can't."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from limn.node.batch.rerun import allowed_bundles, sha256_of_bundle
from limn.node.config import Config
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.reruns.rerun_journal import UNFINISHED
from limn.node.store.journal.rows import ScanRow
from limn.node.store.journal.schema import LIVE


@dataclass(frozen=True, slots=True)
class RerunChoices:
    """What a person may choose for a scan.

    Attributes
    ----------
    bundles : folders by name and version
    why_not : why there is nothing to choose; empty if there is
    """

    bundles: dict[str, Path]
    why_not: str = ""


def choices_for(config: Config, journal: JournalReader, row: ScanRow) -> RerunChoices:
    """The bundles that this scan has not run with yet and that the site allows."""
    if why_not := why_no_rerun(journal, row):
        return RerunChoices({}, why_not)
    had = {
        each.bundle_sha256
        for each in journal.scans_of_folder(row.folder)
        if each.input_digest == row.input_digest and each.reason != UNFINISHED
    }
    bundles = {
        label: folder
        for label, folder in allowed_bundles(config).items()
        if sha256_of_bundle(folder) not in had
    }
    if not bundles:
        shelf = config.model.bundle.parent
        where = f"neither {shelf} nor limn models list has one that this site may use"
        return RerunChoices({}, f"can run with no other bundle: {where}")
    return RerunChoices(bundles)


def why_no_rerun(journal: JournalReader, row: ScanRow) -> str:  # noqa: PLR0911 - a ladder
    """Why no bundle can contour a scan again; empty if one can."""
    if row.priority < LIVE:
        return "is of `limn contour`; run that again with --bundle"
    if row.state == "ready":
        return "waits for a worker" if row.started_at is None else "is being contoured"
    if journal.find_structure_set(row.id) is None:
        return f"was never complete ({row.reason}); send the series again from the scanner"
    if len(journal.animals_of(row.id)) > 1:
        return (
            "is one of several animals in a field; contour the series again by "
            f"limn contour {row.folder} --bundle NAME --two-animals each"
        )
    if newer := _newer_input(journal, row):
        return f"has a newer version, {newer}, with other slices; run that one again"
    gone = [name for name in row.files if not (Path(row.folder) / name).is_file()]
    if gone:
        return (
            f"has lost {len(gone)} of its {len(row.files)} slices in {row.folder} (retention "
            "removes them once they are delivered); send the series again from the scanner"
        )
    return ""


def newest_version(journal: JournalReader, row: ScanRow) -> ScanRow:
    """The newest version of a scan's series, whichever bundle contoured it."""
    same = [
        each
        for each in journal.scans_of_folder(row.folder)
        if each.series_instance_uid == row.series_instance_uid
        and each.profile == row.profile
        and each.field is None
    ]
    return max(same, key=lambda each: each.version)


def _newer_input(journal: JournalReader, row: ScanRow) -> str:
    newest = newest_version(journal, row)
    return newest.name if newest.input_digest != row.input_digest else ""
