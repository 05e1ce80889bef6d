"""The record of a scan's times, and which times may stand in one table."""

import json

import pytest

from limn.domain.records import ScanRecord
from limn.lab.process import timed
from limn.lab.process.timed import machine, timed_on, write_record

STAGES = {"read_s": 0.5, "preprocess_s": 1.0, "inference_s": 3.0, "runtime_s": 5.0}


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Writes the record of a scan by a system on some machine."""

    def write(system, device, host="here"):
        monkeypatch.setattr(timed, "machine", lambda: device)
        monkeypatch.setattr("platform.node", lambda: host)
        path = tmp_path / f"{system}-{len(list(tmp_path.iterdir()))}.json"
        write_record(path, "s", STAGES)
        return path

    return write


def test_the_record_is_the_nodes_own(record):
    """The columns of the node's ScanRecord, and the host."""
    row = json.loads(record("2d", "some CPU").read_text(encoding="utf-8"))
    assert set(row) == {*ScanRecord.columns(), "host"}
    assert {name: row[name] for name in STAGES} == STAGES
    assert (row["scan_id"], row["device"]) == ("s", "some CPU")


def test_one_machine_is_named(record):
    """The device is named, and the host is not."""
    own = {"2d": [record("2d", "X"), record("2d", "X")], "limn": [record("limn", "X")]}
    assert timed_on(own) == "all systems on one machine (X)"


def test_several_machines_are_never_called_one(record):
    """Two devices; two equal hosts; one system on two devices; times of an early version."""
    apart = timed_on({"2d": [record("2d", "X")], "limn": [record("limn", "Y")]})
    assert apart.startswith("NOT all on one machine")
    assert apart.endswith("2d on X; limn on Y")
    twins = timed_on({"2d": [record("2d", "X", "a")], "limn": [record("limn", "X", "b")]})
    assert twins.endswith("2d on X (a); limn on X (b)")
    both = timed_on({"2d": [record("2d", "X"), record("2d", "Y")]})
    assert both.endswith("2d on X; 2d on Y")
    early = record("2d", "X")
    early.write_text(json.dumps(STAGES), encoding="utf-8")
    assert "2d on machines that were not noted" in timed_on(
        {"2d": [early], "limn": [record("limn", "X")]}
    )
    assert timed_on({"2d": [early]}) == "all systems on machines that were not noted"


def test_this_machine_has_a_name():
    """The GPU, or the processor and its cores."""
    assert len(machine()) > 3
