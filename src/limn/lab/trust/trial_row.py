"""What limn made of one scan whose truth is known; one line of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from limn.domain.scan import Organ
from limn.segment.judge.signs import Signs

# From here on a contour is good, and below the other it is bad. Between the two it is neither.
GOOD_DSC, BAD_DSC = 0.90, 0.80


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One scan, its truth and what was drawn.

    Attributes
    ----------
    fault, severity : what spoilt it, and how much, in the unit of `phantom.faults`
    refused : why limn refused it; empty if it was contoured
    signs : of a contoured scan
    dsc, hd95_mm : by organ; of organs that neither the truth nor the contours have there is none
    volumes_mm3 : by organ
    exchanged : whether the contours call the right lung the left one
    concerns : flag, light and whether it always holds, of every concern but the predictions
    """

    fault: str
    seed: int
    severity: float
    refused: str = ""
    signs: Signs = field(default_factory=lambda: Signs({}, {}))
    dsc: Mapping[str, float] = field(default_factory=dict)
    hd95_mm: Mapping[str, float] = field(default_factory=dict)
    volumes_mm3: Mapping[str, float] = field(default_factory=dict)
    exchanged: bool = False
    concerns: tuple[tuple[str, str, bool], ...] = ()
    seconds: float = 0.0

    @property
    def is_bad(self) -> bool:
        """Whether nobody should treat by these contours."""
        return self.exchanged or min(self.dsc.values(), default=1.0) < BAD_DSC

    @property
    def is_good(self) -> bool:
        """Whether every contour is good."""
        return (
            not self.refused
            and not self.exchanged
            and min(self.dsc.values(), default=0.0) >= GOOD_DSC
        )


def append(path: Path, row: TrialRow) -> None:
    """Write one row at the end of a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def read_rows(path: Path) -> list[TrialRow]:
    """The whole rows of a file; a run that was killed may have left half a line at the end."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(_row(json.loads(line)))
        except json.JSONDecodeError:
            continue
    return found


def _row(stored: Mapping[str, Any]) -> TrialRow:
    row = TrialRow(**stored)
    organs = {Organ(name): values for name, values in stored["signs"]["organs"].items()}
    concerns = tuple((str(a), str(b), bool(c)) for a, b, c in stored["concerns"])
    return replace(row, signs=Signs(stored["signs"]["scan"], organs), concerns=concerns)
