"""What the shadow bundle drew of each scan against what was delivered: a small file for each scan.

The files lie in a folder of their own beside the journal (D-272): no scan and no delivery depends
on them. Each is replaced as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from limn.domain.files import OWNER_ONLY_FILE, write_durably
from limn.domain.records import OrganDifference, least_dsc
from limn.node.permissions import make_private_folder

# Pictures of so many comparisons are kept for each shadow bundle: those that differ most.
PICTURES = 20
# So many comparisons are kept for each shadow bundle: those of the newest scans.
KEPT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A scan that two bundles drew: the one that was delivered, and the shadow.

    Attributes
    ----------
    scan : its number
    at : when the shadow had drawn it, UTC seconds
    old, new : the bundle that was delivered and the shadow, as name and version
    outcome : "failed" if the shadow drew nothing
    reason : why it did not
    old_light, new_light : of the whole scan
    old_s, new_s : how long the networks and the rest took, without reading and waiting
    """

    scan: int
    animal: str
    at: float
    old: str
    old_sha256: str
    new: str
    new_sha256: str
    outcome: Literal["compared", "failed"] = "compared"
    reason: str = ""
    old_light: str = ""
    new_light: str = ""
    old_s: float | None = None
    new_s: float | None = None
    organs: tuple[OrganDifference, ...] = ()

    @property
    def name(self) -> str:
        """The scan's name, as people see it."""
        return f"scan-{self.scan:05d}"

    @property
    def least_dsc(self) -> float:
        """Of the organ that differs most; below every other if the shadow drew nothing."""
        return least_dsc(self.organs) if self.outcome == "compared" else -1.0


def path_of(folder: Path, scan: int, new_sha256: str, ending: str = ".json") -> Path:
    """The file of a scan and a shadow bundle; ``.png`` for its picture."""
    return folder / f"scan-{scan:05d}-{new_sha256[:12]}{ending}"


def write_comparison(folder: Path, comparison: Comparison, picture: bytes = b"") -> None:
    """Write a comparison, and its picture if it is one of the `PICTURES` that differ most.

    Of more than `KEPT` the oldest are removed.

    Raises
    ------
    OSError
        If the disk does not take it.
    """
    make_private_folder(folder)
    scan, sha256 = comparison.scan, comparison.new_sha256
    if picture:
        write_durably(path_of(folder, scan, sha256, ".png"), picture, OWNER_ONLY_FILE)
    path = path_of(folder, scan, sha256)
    write_durably(path, json.dumps(asdict(comparison), indent=1).encode(), OWNER_ONLY_FILE)
    every = read_comparisons(folder, sha256)
    for old in every[:-KEPT]:
        for ending in (".png", ".json"):
            path_of(folder, old.scan, sha256, ending).unlink(missing_ok=True)
    for kept in worst_first(every[-KEPT:])[PICTURES:]:
        path_of(folder, kept.scan, sha256, ".png").unlink(missing_ok=True)


def read_comparisons(
    folder: Path, new_sha256: str = "", scan: int | None = None
) -> list[Comparison]:
    """The comparisons, by scan; a file that is no comparison is left out.

    Parameters
    ----------
    new_sha256 : of one shadow bundle; empty for all
    scan : of one scan; None for all
    """
    scans = "*" if scan is None else f"{scan:05d}"
    found = []
    for path in sorted(folder.glob(f"scan-{scans}-{new_sha256[:12] or '*'}.json")):
        with suppress(OSError, ValueError, TypeError, KeyError):
            values = json.loads(path.read_text(encoding="utf-8"))
            organs = tuple(OrganDifference(**each) for each in values.pop("organs"))
            found.append(Comparison(**values, organs=organs))
    return found


def worst_first(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Those that differ most come first."""
    return sorted(comparisons, key=lambda each: (each.least_dsc, each.scan))
