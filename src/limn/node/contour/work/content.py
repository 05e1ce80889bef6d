"""Compares the files that a worker reads with what was received, by the journal's digest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from limn.dicom.instance import digest_of_file, digest_of_series
from limn.dicom.series import Instance
from limn.domain.errors import RefusedSeries
from limn.domain.files import may_pass
from limn.domain.one_line import one_line
from limn.node.contour.job import Job
from limn.node.contour.work.ahead import FileRead, FileState, state_of

# Hashing releases the interpreter; more would only wait for the disk.
READERS = 4
_NONE_READ: Mapping[Path, FileRead] = {}


class Content:
    """The files of a job as they are when this object is made.

    Parameters
    ----------
    read : files whose digest is known for a state of theirs

    Raises
    ------
    RefusedSeries
        If they are not the files whose digest the journal has; the text names those that were
        changed since, as far as their times show it.
    OSError
        If they can't be read just now.
    """

    def __init__(
        self, job: Job, instances: Sequence[Instance], read: Mapping[Path, FileRead] = _NONE_READ
    ) -> None:
        self._job = job
        self._read = read
        self._paths = [each.path for each in instances]
        self._uids = [str(each.header.get("SOPInstanceUID", "")) for each in instances]
        self._states = self._now()
        if job.input_digest:
            self._compare(self._states)

    def check_unchanged(self) -> None:
        """Check that no file was changed while the scan was contoured.

        Raises
        ------
        RefusedSeries
            As the class.
        """
        # A program that makes links changes a file's state too, and not its content.
        states = self._now()
        if self._job.input_digest and states != self._states:
            self._compare(states)

    def _compare(self, states: Sequence[FileState]) -> None:
        try:
            with ThreadPoolExecutor(READERS, thread_name_prefix="digest") as pool:
                digests = list(pool.map(self._digest, self._paths, states))
        except OSError as error:
            if may_pass(error):
                raise
            msg = f"the files of this scan can't be read: {error}"
            raise RefusedSeries(msg) from error
        found = digest_of_series(zip(self._uids, digests, strict=True))
        if found != self._job.input_digest:
            raise self._refusal()

    def _digest(self, path: Path, state: FileState) -> str:
        read = self._read.get(path)
        if read is not None and read.state == state:
            return read.digest
        return digest_of_file(path)

    def _now(self) -> list[FileState]:
        return list(map(state_of, self._paths))

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
