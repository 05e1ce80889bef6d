"""Copies the journal, the scan log and the structure sets that still wait, from a running node."""

from __future__ import annotations

import shutil
from pathlib import Path

from limn.domain.errors import ConfigWrong
from limn.domain.files import new_folder
from limn.node.config import Config, load_config
from limn.node.operate.journal_access import journal_to_read, plain_console
from limn.node.permissions import OWNER_ONLY_FOLDER, make_private_file, make_private_folder
from limn.node.promotions import PROMOTIONS
from limn.node.store.disk.evidence import NUMBERS
from limn.node.store.disk.scanlog import roi_table
from limn.node.store.journal.reader import JournalReader


def back_up(config_path: Path, out: Path) -> None:
    """Write a sound copy of what `limn serve` can't make anew into a new folder.

    Raises
    ------
    ConfigWrong
        If no scan has come yet, or the folder exists already or can't be written.
    """
    config = load_config(config_path)
    target = out.resolve()
    if target.exists():
        msg = f"{target} exists already; give a new folder for each backup"
        raise ConfigWrong(msg)
    with journal_to_read(config) as journal:
        if journal is None:
            msg = f"{config.journal_path} does not exist; no scan has come yet"
            raise ConfigWrong(msg)
        try:
            make_private_folder(target.parent)
            with new_folder(target) as folder:
                folder.chmod(OWNER_ONLY_FOLDER)
                waiting = _copy(config, config_path, journal, folder)
        except OSError as error:
            msg = f"{target} can't be written ({error.strerror or error})"
            raise ConfigWrong(msg) from error
    plain_console().print(
        f"{target}: journal, scan log, config and {waiting} structure sets that still wait. Slices "
        f"({config.spool_dir}) and other results ({config.results_dir}) are not in it: "
        "docs/backup.md"
    )


def _copy(config: Config, config_path: Path, journal: JournalReader, folder: Path) -> int:
    """Fill the folder; returns the number of structure sets."""
    # The node writes its journal first, so the copy of the journal comes last: it knows every row.
    rois = roi_table(config.scan_log_path)
    own = [config.data_dir / name for name in (NUMBERS, PROMOTIONS)]
    for path in (config.scan_log_path, rois, *own):
        if path.exists():
            _copy_file(path, folder / path.name)
    _copy_file(config_path, folder / "limn.toml")
    journal.copy_to(folder / config.journal_path.name)
    count = 0
    for row in journal.unfinished():
        structure_set = journal.find_structure_set(row.id)
        if structure_set is None or not structure_set.path or structure_set.discarded_at:
            continue
        path = Path(structure_set.path)
        if path.is_file():
            _copy_file(path, folder / config.results_dir.name / row.name / path.name)
            count += 1
    return count


def _copy_file(path: Path, copy: Path) -> None:
    make_private_folder(copy.parent)
    make_private_file(copy)
    shutil.copyfile(path, copy)
