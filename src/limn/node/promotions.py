"""Who made which bundle deliver, when and why: a file in the data folder that goes before the TOML.

A promotion never edits a person's TOML (D-273). It counts as long as the TOML names the bundle
that it named then: who edits that line decides anew. The last promotion that is in force says
which bundle delivers; one that is wanted waits until a running node is between two scans.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock

from limn.domain.errors import ConfigWrong
from limn.domain.files import OWNER_ONLY_FILE, write_durably

PROMOTIONS = "promotions.json"
LOCK = "promotions.lock"
# A change reads and writes one small file.
LOCK_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """A change of the bundle that delivers. Times are UTC seconds.

    Attributes
    ----------
    bundle, label, sha256 : that delivers from then on
    instead_of, instead_label : that delivered before
    config_bundle : what the TOML named when this was asked for
    in_force_at : when the node took it up; None while it waits, and where it was refused
    refused : why the node did not take it up, or took it up and gave it up; empty if it did or may
    """

    bundle: str
    label: str
    sha256: str
    instead_of: str
    instead_label: str
    config_bundle: str
    by: str
    why: str
    asked_at: float
    in_force_at: float | None = None
    refused: str = ""

    @property
    def waits(self) -> bool:
        """Whether the node has yet to take it up."""
        return self.in_force_at is None and not self.refused


def read_promotions(data_dir: Path) -> list[Promotion]:
    """Every promotion, oldest first.

    Raises
    ------
    ConfigWrong
        If the file is damaged: nobody may guess which bundle delivers.
    """
    path = data_dir / PROMOTIONS
    try:
        return [Promotion(**each) for each in json.loads(path.read_text(encoding="utf-8"))]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError:
        # What to do about it is told for every file of the data folder.
        raise
    except (OSError, ValueError, TypeError) as error:
        msg = (
            f"{path} says which bundle delivers and can't be read ({error}); restore it from a "
            "backup, or remove it: then the bundle of the config delivers"
        )
        raise ConfigWrong(msg) from error


def bundle_in_force(data_dir: Path, config_bundle: Path) -> Path:
    """The bundle that delivers, where the TOML names ``config_bundle``.

    Raises
    ------
    ConfigWrong
        As `read_promotions`.
    """
    promotion = promotion_in_force(data_dir)
    if promotion is None or promotion.config_bundle != str(config_bundle):
        return config_bundle
    return Path(promotion.bundle)


def promotion_in_force(data_dir: Path) -> Promotion | None:
    """The last promotion that was taken up; it counts while the TOML names its ``config_bundle``.

    Raises
    ------
    ConfigWrong
        As `read_promotions`.
    """
    taken = [each for each in read_promotions(data_dir) if each.in_force_at is not None]
    return taken[-1] if taken else None


def write_promotions(data_dir: Path, promotions: Sequence[Promotion]) -> None:
    """Replace the file, durably."""
    contents = json.dumps([asdict(each) for each in promotions], indent=1)
    write_durably(data_dir / PROMOTIONS, contents.encode(), OWNER_ONLY_FILE)


def waiting_promotion(data_dir: Path) -> Promotion | None:
    """The promotion that a node has to take up; None if there is none."""
    last = read_promotions(data_dir)[-1:]
    return last[0] if last and last[0].waits else None


@contextmanager
def changing_promotions(data_dir: Path) -> Iterator[None]:
    """Keep every other process from a change of the file for the ``with`` block.

    Raises
    ------
    OSError
        If another process changes it for longer than `LOCK_S`, or the disk does not take the lock.
    """
    with FileLock(data_dir / LOCK, timeout=LOCK_S):
        yield


def end_wait(
    data_dir: Path, promotion: Promotion, now: float, refused: str = ""
) -> Promotion | None:
    """Note that this promotion is in force, or why it is not, and no other one.

    Returns
    -------
    It as it is now; None if a person withdrew or replaced it meanwhile: then nothing has changed.
    """
    with changing_promotions(data_dir):
        known = read_promotions(data_dir)
        if promotion not in known:
            return None
        in_force_at = None if refused else now
        ended = replace(promotion, in_force_at=in_force_at, refused=refused)
        write_promotions(data_dir, [ended if each == promotion else each for each in known])
    return ended
