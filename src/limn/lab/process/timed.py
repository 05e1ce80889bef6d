"""What a scan cost a system, as the node's own record; and whether systems may be held together."""

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
from limn.domain.timing import ScanRecord
from limn.lab.process.isolated import cores

# Times of a system were written before machines were noted.
UNNOTED = "machines that were not noted"


def write_record(path: Path, scan: str, elapsed_s: Mapping[str, float]) -> None:
    """The `ScanRecord` of a scan as JSON, and the host beside it.

    Parameters
    ----------
    elapsed_s : ``read_s``, ``preprocess_s``, ``inference_s``; ``runtime_s`` from before the image
        is read until its labels are on disk
    """
    record = ScanRecord(scan_id=scan, limn_version=__version__, device=machine(), outcome="timed")
    said = {**asdict(record), **elapsed_s, "host": platform.node()}
    write_durably(path, json.dumps(said, indent=1).encode())


def machine() -> str:
    """What computes here, such as "NVIDIA H100" or "AMD EPYC 9R14, 2 cores"."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    processor = openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")
    return f"{processor}, {cores()} cores"


def timed_on(records: Mapping[str, Sequence[Path]]) -> str:
    """Where systems were timed, for the caption of Table 4; says so where that was not one machine.

    Parameters
    ----------
    records : system to its files of `write_record`
    """
    where: dict[tuple[str, str], list[str]] = {}
    for system, paths in records.items():
        found = {_place(json.loads(path.read_text(encoding="utf-8"))) for path in paths}
        for place in sorted(found):
            where.setdefault(place, []).append(system)
    devices = {device for device, _ in where}
    if devices == {UNNOTED}:
        return f"all systems on {UNNOTED}"
    if len(where) == 1:
        (device,) = devices
        return f"all systems on one machine ({device})"
    hosts = len(devices) < len(where)
    told = "; ".join(
        f"{', '.join(systems)} on {device}{f' ({host})' if hosts and host else ''}"
        for (device, host), systems in where.items()
    )
    return f"NOT all on one machine, so hold only those of one against each other: {told}"


def _place(record: Mapping[str, object]) -> tuple[str, str]:
    return str(record.get("device", UNNOTED)), str(record.get("host", ""))
