"""Whether a folder can be written, and whether its disk has room: bytes and inodes."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from limn.domain.errors import ConfigWrong
from limn.node.config import Config
from limn.node.permissions import check_usable, make_private_folder

# What journal, certificates and log need at the first start.
LEAST_BYTES = 2**20
# What limn makes in the data folder; the site may keep other files there.
MADE = (
    *("*.lock", "*.log", "*.jsonl", "scans.csv", "rois.csv", "numbers", "ready"),
    *("journal.sqlite*", "watched.sqlite*", "dask", "heartbeats"),
    *("board-accounts.json", "promotions.json", "reruns", "shadow"),
    *("tls", "tls/*", "spool", "spool/*", "spool/.slots", "scans", "scans/*"),
    *("returned", "edits", "viewed", "images", "export_folders"),
    *("destinations.json", "senders.json"),
)
# Every slice is a file. What journal, structure sets and log need must stay, as with the bytes.
MIN_FREE_INODES = 500
# A scan of some thousand slices.
REFUSE_FREE_INODES = 5000


@dataclass(frozen=True, slots=True)
class Inodes:
    """How many more files a disk can take."""

    free: int
    total: int

    @property
    def least(self) -> int:
        """Below this no instance is taken; a small disk keeps a small part."""
        return min(MIN_FREE_INODES, self.total // 20)

    @property
    def low(self) -> int:
        """Below this no association that brings instances is let in."""
        return min(REFUSE_FREE_INODES, self.total // 10)


def inodes_of(folder: Path) -> Inodes | None:
    """The inodes of the folder's disk; None where they are not limited (Windows, Btrfs).

    Raises
    ------
    OSError
        If the folder can't be reached.
    """
    # Windows has no such call.
    ask = getattr(os, "statvfs", None)
    if ask is None:
        return None
    found = ask(folder)
    return Inodes(found.f_favail, found.f_files) if found.f_files else None


def try_writing(config: Config) -> None:
    """Write as much to the data folder as a start needs.

    Raises
    ------
    ConfigWrong
        If the folder can't be made or written, its disk is full, everybody may write there, or a
        file in it can't be used by this user.
    """
    folder = config.data_dir
    try:
        make_private_folder(folder)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * LEAST_BYTES)
            file.flush()
    except OSError as error:
        msg = (
            f"data_dir {folder} can't be written ({error.strerror}); free some space, or give the "
            "user that runs limn the right to write there"
        )
        raise ConfigWrong(msg) from error
    check_usable(folder, MADE)


def shortage(config: Config) -> str:
    """What the free space no longer allows, and the remedy; empty if there is room."""
    free_mb = shutil.disk_usage(config.data_dir).free // 2**20
    found = f"{config.data_dir} has {free_mb} MB free"
    if free_mb < config.receive.min_free_mb:
        return (
            f"{found}, receive.min_free_mb is {config.receive.min_free_mb}: no scan is taken "
            "(0xA700); free some space"
        )
    if free_mb < config.receive.refuse_free_mb:
        return (
            f"{found}, new associations are refused below {config.receive.refuse_free_mb} "
            "(receive.refuse_below_mb); free some space"
        )
    inodes = inodes_of(config.data_dir)
    if inodes is not None and inodes.free < inodes.low:
        what = (
            f"no scan is taken below {inodes.least} (0xA700)"
            if inodes.free < inodes.least
            else f"new associations are refused below {inodes.low}"
        )
        return (
            f"the disk of {config.data_dir} has {inodes.free} inodes free (files it can still "
            f"take): {what}; delete files there"
        )
    return ""
