"""A site's config and journal with scans in it, and what its operator sees of them."""

import time
from pathlib import Path

import pytest

from limn.cli import main
from limn.node.config import DicomDestination
from limn.node.deliver.courier import Courier
from limn.node.store.disk.contacts import DestinationContacts
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import ScanRow
from tests.conftest import free_port
from tests.support.node.parts import arrived, encoded, structure_set

CONFIG = """
data_dir = "data"
[model]
bundle = "bundle"
[engine]
wake_port = {wake}
[[destination]]
kind = "dicom"
name = "tps"
ae_title = "TPS"
host = "127.0.0.1"
port = {tps}
[[destination]]
kind = "folder"
name = "export"
folder = "out"
"""


class Site:
    """A site's config and journal, and what its operator sees."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder / "a site"
        self.folder.mkdir()
        self.config = self.folder / "limn.toml"
        self.port = free_port()
        self.config.write_text(CONFIG.format(wake=free_port(), tps=self.port))
        self.data = self.folder / "data"
        self.log = self.data / "scans.csv"
        self.journal = Journal(self.data / "journal.sqlite")
        self._capsys = capsys

    def scan(self, number: int, *also: str, **changes: object) -> ScanRow:
        """A whole series, its files in the spool."""
        folder = self.data / "spool" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("a.dcm", "b.dcm"):
            (folder / name).touch()
        values = {"animal": f"M{number}", "series_instance_uid": f"2.25.{number}"}
        values |= {"folder": str(folder)} | changes
        row = self.journal.insert(arrived(**values), ("tps", "export", *also))
        assert row is not None
        return row

    def contoured(self, number: int, *also: str, held: str | None = None, **new: object) -> ScanRow:
        """The same, with its structure set on disk."""
        row = self.scan(number, *also, **new)
        uid = self.journal.structure_set_of(row.id).sop_instance_uid
        path = self.data / f"RS.{uid}.dcm"
        path.write_bytes(encoded(structure_set(uid)))
        self.journal.contoured(row.id, str(path), {"contoured_at": time.time() - 5}, held)
        return self.journal.scan(row.id)

    def limn(self, *arguments: str) -> str:
        """What a command prints."""
        command, *rest = arguments
        assert main.main([command, "--config", str(self.config), *rest]) == 0
        return self._capsys.readouterr().out

    def refused(self, *arguments: str) -> str:
        """Why a command does nothing."""
        command, *rest = arguments
        assert main.main([command, "--config", str(self.config), *rest]) == 1
        return self._capsys.readouterr().err

    def states(self, row: ScanRow) -> list[str]:
        """How far the deliveries of a scan are."""
        return [each.state for each in self.journal.deliveries(row.id)]

    def courier(self) -> Courier:
        """Who carries to the planning system."""
        tps = DicomDestination(
            kind="dicom", name="tps", ae_title="TPS", host="127.0.0.1", port=self.port
        )
        return Courier(
            tps,
            self.journal,
            self.log,
            "LIMN",
            keeps_scan_log=True,
            contacts=DestinationContacts(self.data / "destinations.json"),
        )
