"""The series that are coming in, as the receiver shows them to `limn queue`: a small file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from limn.node.store.disk.notice import read_notice, write_notice

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
    light : "red" for an image of another format of which a person must say or mend something
    """

    animal: str
    sender: str
    series_instance_uid: str
    since_utc: str
    slices: int
    expected: int | None
    waits_for: str
    until_utc: str
    light: str = ""

    @property
    def state(self) -> str:
        """Whether it comes in by itself."""
        return "needs a person" if self.light else "coming in"

    @property
    def came(self) -> str:
        """How much has come; empty for an image, which is no series yet."""
        of = f" of {self.expected}" if self.expected else ""
        return f"{self.slices}{of} slices" if self.series_instance_uid else ""

    @property
    def needs(self) -> str:
        """What it waits for, or what a person must do."""
        return self.waits_for if self.light else f"waits for {self.waits_for}"


def write_receiving(path: Path, series: Sequence[ReceivingSeries], now: float) -> None:
    """Replace the file; errors are ignored."""
    write_notice(path, [asdict(each) for each in series], now)


def read_receiving(path: Path, now: float) -> list[ReceivingSeries]:
    """The series that are coming in; none if the receiver has not written lately."""
    try:
        return [ReceivingSeries(**each) for each in read_notice(path, now, BELIEVED_S) or ()]
    except TypeError:
        return []
