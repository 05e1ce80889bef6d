"""Small copies of scans' pictures, each made once while the board runs, and so many at most."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from pathlib import Path

from PIL import Image

SIDE = 480
# Some 25 kB each.
MOST = 600
# A picture of limn has a twentieth of that; what is larger was not made by it.
MOST_PIXELS = 40_000_000


class Thumbnails:
    """Keeps the latest small copies in memory: nothing more of an animal lies on the disk.

    Safe to share between threads. One copy is made at a time, so that a page full of them leaves
    the processors to the workers.
    """

    def __init__(self) -> None:
        self._made: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._turn = threading.Lock()

    def of(self, picture: Path) -> bytes:
        """A JPEG of a PNG, at most `SIDE` pixels wide and high.

        Raises
        ------
        OSError
            If there is no such picture, it can't be read as one, or a link leads out of its folder.
        """
        # Not what a link leads to: only the node's own pictures; and nothing waits for a FIFO.
        if not picture.is_file() or picture.resolve().parent != picture.parent.resolve():
            msg = f"{picture} is no file of its folder"
            raise FileNotFoundError(msg)
        found = picture.stat()
        key = str(picture), found.st_mtime_ns, found.st_size
        with self._turn:
            if key not in self._made:
                try:
                    self._made[key] = _small(picture)
                except Exception as error:
                    # A decoder has many words for a damaged or an overlarge picture.
                    msg = f"{picture} can't be read: {error}"
                    raise OSError(msg) from error
            self._made.move_to_end(key)
            while len(self._made) > MOST:
                self._made.popitem(last=False)
            return self._made[key]


def _small(picture: Path) -> bytes:
    with Image.open(picture, formats=["PNG"]) as image:
        if image.width * image.height > MOST_PIXELS:
            msg = f"{picture} has {image.width} x {image.height} pixels"
            raise OSError(msg)
        small = image.convert("RGB")
        small.thumbnail((SIDE, SIDE), reducing_gap=2.0)
        made = io.BytesIO()
        small.save(made, "JPEG", quality=80)
        return made.getvalue()
