"""Which series a running commissioning sends, and where a person lets it go to (D-270).

`limn commission` writes the file before each phantom. The receiver reads it when the phantom's
series is complete. A file that was left behind is soon too old to count.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from limn.node.commissioning import COMMISSIONING, KEPT_FOR_PHANTOMS, is_commissioning
from limn.node.store.disk.notice import read_notice, write_notice

# A phantom that was sent is complete within this time, or `limn commission` has given it up.
BELIEVED_S = 900.0


def announce_phantom(
    path: Path, series_instance_uids: Collection[str], names: Sequence[str], now: float
) -> None:
    """Say which series come next, and which destinations get them too; errors are ignored."""
    write_notice(path, {"series": sorted(series_instance_uids), "to": list(names)}, now)


def destinations_of(
    animal: str, configured: Sequence[str], path: Path, now: float
) -> tuple[str, ...]:
    """The destinations that get an animal's structure sets.

    Those of the config; a phantom that commissions the node goes to the commissioning alone, and to
    those that a person named to it.

    Parameters
    ----------
    animal : PatientID
    path : where `announce_phantom` wrote
    """
    if not is_commissioning(animal):
        return tuple(configured)
    named = _announced(path, "to", now)
    return (COMMISSIONING, *(name for name in configured if name in named))


def why_no_phantom(animal: str, series_instance_uid: str, path: Path, now: float) -> str:
    """Why a series can't come in under its PatientID; empty if it can.

    A commissioning's PatientIDs are for the series that it has announced alone.
    """
    if not is_commissioning(animal) or series_instance_uid in _announced(path, "series", now):
        return ""
    return KEPT_FOR_PHANTOMS


def _announced(path: Path, what: str, now: float) -> Collection[str]:
    found = read_notice(path, now, BELIEVED_S)
    named = found.get(what) if isinstance(found, dict) else None
    return named if isinstance(named, list) else ()
