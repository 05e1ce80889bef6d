"""Which folders notifications name, so that the watch lists these and not the whole tree."""

from __future__ import annotations

import os
import threading

from watchdog.events import FileSystemEvent, FileSystemEventHandler

# Of more folders than these between two looks, the whole tree is listed.
MANY_FOLDERS = 1000
# Nothing has changed after these.
_READ_ONLY = ("opened", "closed_no_write")


class Changes(FileSystemEventHandler):
    """The folders in which something has changed since the last look.

    Parameters
    ----------
    top : the watched folder, as it was given to the observer
    """

    def __init__(self, top: str) -> None:
        self._top = top
        self._lock = threading.Lock()
        self._folders: dict[str, bool] = {}
        self._whole = False

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Note the folder of what has changed; a folder that is new is listed with all below it."""
        kind = event.event_type
        if kind in _READ_ONLY:
            return
        for path in map(os.fsdecode, (event.src_path, event.dest_path)):
            if not path:
                continue
            if event.is_directory and (path == self._top or kind != "deleted"):
                self.note(path, deep=kind != "modified")
            else:
                self.note(os.path.dirname(path))  # noqa: PTH120 - names that are no UTF-8

    def note(self, folder: str, *, deep: bool = False) -> None:
        """Let a folder be listed at the next look; ``deep``: with the folders below it."""
        with self._lock:
            # Some systems name the folder by another path, as through a link.
            within = folder == self._top or folder.startswith(self._top + os.sep)
            if not within or (folder == self._top and deep) or len(self._folders) >= MANY_FOLDERS:
                self._whole = True
            else:
                self._folders[folder] = deep or self._folders.get(folder, False)

    def take(self) -> dict[str, bool] | None:
        """The folders since the last call, and whether those below are meant too; None for all."""
        with self._lock:
            folders, whole = self._folders, self._whole
            self._folders, self._whole = {}, False
        return None if whole else folders
