"""How long a system took for a scan, and on which machine; whether times may be compared."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import openvino
import torch

from limn import __version__
from limn.domain.files import write_durably
from limn.domain.records import ScanRecord
from limn.lab.process.isolated import cores

# Early versions wrote times without the machine.
UNKNOWN = "machines that were not noted"


def write_record(path: Path, scan: str, elapsed_s: Mapping[str, float]) -> None:
    """Write the `ScanRecord` of a scan as JSON, with the name of the host.

    Parameters
    ----------
    elapsed_s : ``read_s``, ``preprocess_s``, ``inference_s``; and ``runtime_s``, from before the
        image is read until its labels are written
    """
    record = ScanRecord(scan_id=scan, limn_version=__version__, device=machine(), outcome="timed")
    row = {**asdict(record), **elapsed_s, "host": platform.node()}
    write_durably(path, json.dumps(row, indent=1).encode())


def machine() -> str:
    """The device that computes here, such as "NVIDIA H100" or "AMD EPYC 9R14, 2 cores"."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    processor = openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")
    return f"{processor}, {cores()} cores"


def timed_on(records: Mapping[str, Sequence[Path]]) -> str:
    """Name the machine of all times for the caption of Table 4, or warn that there are several.

    Parameters
    ----------
    records : files of `write_record`, by system
    """
    systems_on: dict[tuple[str, str], list[str]] = {}
    for system, paths in records.items():
        found = {_place(json.loads(path.read_text(encoding="utf-8"))) for path in paths}
        for place in sorted(found):
            systems_on.setdefault(place, []).append(system)
    devices = {device for device, _ in systems_on}
    if devices == {UNKNOWN}:
        return f"all systems on {UNKNOWN}"
    if len(systems_on) == 1:
        (device,) = devices
        return f"all systems on one machine ({device})"
    hosts = len(devices) < len(systems_on)
    listed = "; ".join(
        f"{', '.join(systems)} on {device}{f' ({host})' if hosts and host else ''}"
        for (device, host), systems in systems_on.items()
    )
    return f"NOT all on one machine, so compare only times of the same machine: {listed}"


def _place(record: Mapping[str, object]) -> tuple[str, str]:
    return str(record.get("device", UNKNOWN)), str(record.get("host", ""))
