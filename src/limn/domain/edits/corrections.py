"""A scan whose contours a person corrected: what the node knows of it, and the lab learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectedScan:
    """A scan that was contoured, and its structure set as it came back.

    Attributes
    ----------
    scan : such as scan-00007
    slices : its CT files
    several : whether the field has other animals too
    organs : of the bundle, to the name of its ROI in the structure set
    absent : organs that did not come back
    accepted : whether nobody changed it
    editor : who corrected it; empty if nobody says so
    dsc : of each organ, against what limn drew
    """

    scan: str
    animal: str
    several: bool
    slices: tuple[Path, ...]
    structure_set: Path
    organs: Mapping[str, str]
    absent: tuple[str, ...]
    accepted: bool
    editor: str
    came_utc: str
    bundle_sha256: str
    dsc: Mapping[str, float]


def usable_scans(
    corrected: Iterable[CorrectedScan], report: Callable[[str], None]
) -> Iterator[CorrectedScan]:
    """The scans that others can learn from; each of the others is reported with the reason."""
    for each in corrected:
        gone = sum(not path.is_file() for path in each.slices)
        why = ""
        if each.several:
            why = "several animals are in its field, and contours of one would teach that the "
            why += "others are none"
        elif not each.structure_set.is_file():
            why = f"{each.structure_set} is not there any more"
        elif gone:
            why = f"{gone} of its slices are not there any more (retention.spool_days)"
        elif each.absent:
            why = f"no {' and no '.join(each.absent)} came back"
        if why:
            report(f"left out: {each.scan}, animal {each.animal}: {why}")
        else:
            yield each
