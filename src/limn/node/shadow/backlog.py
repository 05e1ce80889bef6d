"""Which scans the shadow bundle has to draw: the last ones that every destination has."""

from __future__ import annotations

from pathlib import Path

from limn.node.commissioning import is_commissioning
from limn.node.config import Config
from limn.node.store.disk.comparisons import path_of
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.rows import ScanRow

# Of the newest delivered scans so many are drawn; what is older was never drawn and never will be.
BACKLOG = 50


def due_scans(journal: JournalReader, config: Config, new_sha256: str) -> list[ScanRow]:
    """The scans that the shadow has to draw, the oldest first.

    Left out are those that it has drawn, those that this same bundle has drawn for delivery, those
    whose slices or labels were removed, and phantoms that commission the node.
    """
    rows = journal.done_since(0.0, BACKLOG)
    return [row for row in reversed(rows) if _is_due(row, config, new_sha256)]


def _is_due(row: ScanRow, config: Config, new_sha256: str) -> bool:
    if is_commissioning(row.animal) or row.record.get("bundle_sha256") == new_sha256:
        return False
    if path_of(config.shadow_dir, row.id, new_sha256).exists():
        return False
    return labels_path(config, row).is_file() and Path(row.folder, row.files[0]).is_file()


def labels_path(config: Config, row: ScanRow) -> Path:
    """What was delivered, voxel by voxel; the engine writes it after the hand-over."""
    return config.results_dir / row.name / "labels.npz"
