"""Where an export folder lies, so that an unmounted share is not taken for its empty mount point.

Below the mount point of an unmounted share lies the local disk: a folder there is none that
anybody reads. limn makes an export folder once, where it is new to the node, and remembers at
which mount point it lies (D-258). A device number would not do: a share has another one after
each mount.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from limn.domain.files import OWNER_ONLY_FILE, write_durably
from limn.domain.folders import not_a_folder
from limn.node.permissions import make_private_folder

log = logging.getLogger(__name__)

FOLDER = "export_folders"


@dataclass(frozen=True, slots=True)
class ExportPlace:
    """One export folder, and the note of where it lay when the node first used it.

    Attributes
    ----------
    data_dir : in which the note is kept
    """

    folder: Path
    data_dir: Path

    @property
    def note(self) -> Path:
        """The file that remembers the mount point."""
        name = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return self.data_dir / FOLDER / f"{name}.json"

    def adopt(self) -> None:
        """Make a folder that is new to the node and remember its place; leave any other.

        Raises
        ------
        OSError
            If it can't be made, or the note can't be written.
        """
        before = self._remembered()
        if before is None:
            self.folder.mkdir(parents=True, exist_ok=True)
        now = mount_point(self.folder)
        if now is None or now == before:
            return
        # A share that was mounted over the place since then is what the site wanted all along.
        if before is None or before in now.parents:
            self._remember(now)

    def fault(self) -> str:
        """Why nothing may be written there now, and what to do; empty if it may."""
        now, before = mount_point(self.folder), self._remembered()
        if now is None:
            return not_a_folder(self.folder) or (
                "there is no such folder any more; mount its share again, or make the folder"
            )
        if before is None or now == before:
            return ""
        if before in now.parents:
            # The share is there at last: from now on its absence counts.
            with suppress(OSError):
                self._remember(now)
            return ""
        return (
            f"it lies on the disk at {now} now, and lay on that at {before} when limn first used "
            "it; mount the share again. If the move is wanted, delete "
            f"{self.note} and run `limn check`"
        )

    def _remember(self, place: Path) -> None:
        make_private_folder(self.note.parent)
        text = json.dumps({"folder": str(self.folder), "mount_point": str(place)})
        write_durably(self.note, text.encode(), OWNER_ONLY_FILE)

    def _remembered(self) -> Path | None:
        try:
            return Path(str(json.loads(self.note.read_bytes())["mount_point"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def mount_point(folder: Path) -> Path | None:
    """The nearest mount point at or above a folder, links resolved; None if there is no folder."""
    try:
        real = folder.resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    if not real.is_dir():
        return None
    return next((each for each in (real, *real.parents) if os.path.ismount(each)), None)
