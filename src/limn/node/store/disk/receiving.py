"""The series that are coming in, as the receiver shows them to `limn queue`: a small file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from limn.domain.files import OWNER_ONLY_FILE

# While series come in the receiver writes the file at least so often, and a reader believes it so
# long: after that the receiver is gone.
REWRITE_S = 10.0
BELIEVED_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivingSeries:
    """One series that is not in the journal yet.

    Attributes
    ----------
    since_utc : when its first slice came
    expected : how many slices the site or the headers announce
    waits_for : what it waits for
    until_utc : when that wait ends if nothing comes; empty while an association must end first
    """

    animal: str
    sender: str
    series_instance_uid: str
    since_utc: str
    slices: int
    expected: int | None
    waits_for: str
    until_utc: str


def write_receiving(path: Path, series: Sequence[ReceivingSeries], now: float) -> None:
    """Replace the file, but not durably: after a crash nobody believes it; errors are ignored."""
    part = path.with_name(f".{path.name}.part")
    text = json.dumps({"written_at": now, "series": [asdict(each) for each in series]})
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    with suppress(OSError):
        part.unlink(missing_ok=True)
        with open(part, "wb", opener=lambda name, _: os.open(name, flags, OWNER_ONLY_FILE)) as file:
            file.write(text.encode())
        part.replace(path)


def read_receiving(path: Path, now: float) -> list[ReceivingSeries]:
    """The series that are coming in; none if the receiver has not written lately."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if abs(now - float(found["written_at"])) > BELIEVED_S:
            return []
        return [ReceivingSeries(**each) for each in found["series"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
