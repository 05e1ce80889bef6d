"""Compares the files that a worker reads with what was received, by the journal's digest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from limn.dicom.instance import digest_of_file, digest_of_series
from limn.dicom.series import Instance
from limn.domain.errors import RefusedSeries
from limn.domain.files import may_pass
from limn.domain.one_line import one_line
from limn.node.contour.job import Job

# Hashing releases the interpreter; more would only wait for the disk.
READERS = 4


class Content:
    """The files of a job as they are when this object is made.

    Raises
    ------
    RefusedSeries
        If they are not the files whose digest the journal has; the text names those that were
        changed since, as far as their times show it.
    OSError
        If they can't be read just now.
    """

    def __init__(self, job: Job, instances: Sequence[Instance]) -> None:
        self._job = job
        self._paths = [each.path for each in instances]
        self._uids = [str(each.header.get("SOPInstanceUID", "")) for each in instances]
        self._states = self._now()
        if job.input_digest:
            self._compare()

    def check_unchanged(self) -> None:
        """Check that no file was changed while the scan was contoured.

        Raises
        ------
        RefusedSeries
            As the class.
        """
        # A program that makes links changes a file's state too, and not its content.
        if self._job.input_digest and self._now() != self._states:
            self._compare()

    def _compare(self) -> None:
        try:
            with ThreadPoolExecutor(READERS, thread_name_prefix="digest") as pool:
                digests = list(pool.map(digest_of_file, self._paths))
        except OSError as error:
            if may_pass(error):
                raise
            msg = f"the files of this scan can't be read: {error}"
            raise RefusedSeries(msg) from error
        found = digest_of_series(zip(self._uids, digests, strict=True))
        if found != self._job.input_digest:
            raise self._refusal()

    def _now(self) -> list[tuple[int, int, int, int]]:
        """What changes when a file is written or replaced, even if its time is put back."""
        states = []
        for path in self._paths:
            try:
                found = path.stat()
            except OSError:
                states.append((0, 0, 0, 0))
                continue
            # On Windows st_ctime is the time of creation, which reading does not change either.
            states.append((found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
        return states

    def _refusal(self) -> RefusedSeries:
        paths = [Path(path) for path in self._job.paths]
        folder = one_line(os.path.commonpath([path.parent for path in paths]))
        changed = "" if self._job.sizes else _changed_since(paths, self._job.received_at)
        return RefusedSeries(
            f"the {len(paths)} files in {folder} are not what was received: their digest is not "
            f"the journal's{changed}. Find out what writes there, send the series again, then "
            "`limn retry` this scan; if an instance is then answered as one that came before with "
            "other content, remove that folder and send the series once more"
        )


def _changed_since(paths: Sequence[Path], received_at: float) -> str:
    """Which files were written after the scan had come; empty if their times don't show it."""
    names = []
    for path in paths:
        try:
            if path.stat().st_mtime > received_at:
                names.append(one_line(path.name))
        except OSError:
            names.append(one_line(path.name))
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"; written since: {', '.join(names[:3])}{more}"
