"""The scans that people look at: a few at a time, their files bounded in bytes and time."""

from __future__ import annotations

import logging
import shutil
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from limn.domain.geometry import Grid, IntArray, even_grid
from limn.node.board.viewer.ct import Ct, CtUnreadable
from limn.node.board.viewer.hanging import Hanging
from limn.node.board.viewer.shown_labels import LabelsUnreadable, ShownLabels
from limn.node.config import Config
from limn.node.permissions import make_private_folder
from limn.node.store.journal.rows import ScanRow

log = logging.getLogger(__name__)

# So many scans are looked at; the voxels of all take so many bytes on disk at most.
MOST_SCANS = 3
MOST_BYTES = 3 * 2**30
# Nobody looks at a scan of which nothing was asked for so long.
IDLE_S = 600.0
# A scan that was asked for in the last seconds is not forgotten for another one; a page that waits
# for something asks again sooner (MOST_PAUSE_MS in viewer.js).
IN_USE_S = 20.0
SWEEP_S = 15.0


class NothingToShow(Exception):
    """Neither the slices nor the labels of a scan can be shown; the text says why."""


class Busy(Exception):
    """A scan can't be shown yet; the text says why, and the page asks again."""


@dataclass(slots=True, eq=False)
class View:
    """One scan that somebody looks at.

    Attributes
    ----------
    ct, labels : None if they can't be shown, for the reasons in ``no_ct`` and ``no_labels``
    no_planes : why only axial planes of the CT can be shown; empty if all can
    """

    row: ScanRow
    folder: Path
    state: tuple[object, ...]
    ct: Ct | None
    no_ct: str
    labels: ShownLabels | None
    no_labels: str
    no_planes: str = ""
    asked_s: float = field(default_factory=time.monotonic)
    # Of its organs, once somebody asked for them.
    surfaces: bytes | None = None

    @property
    def grid(self) -> Grid:
        """With every slice of the even ladder."""
        if self.ct is not None:
            return self.ct.grid
        if self.labels is None:
            raise NothingToShow(self.no_ct)
        return even_grid(self.labels.grid, self.labels.rungs)

    @property
    def rungs(self) -> IntArray:
        """Index of every slice that the series has on the even ladder."""
        if self.ct is not None:
            return self.ct.rungs
        if self.labels is None:
            raise NothingToShow(self.no_ct)
        return self.labels.rungs

    @property
    def token(self) -> int:
        """A number of 32 bits that is another one for other files."""
        return zlib.crc32(repr(self.state).encode())

    @property
    def hanging(self) -> Hanging:
        """How its planes hang."""
        return Hanging.of(self.grid)

    def close(self) -> None:
        """End its process and remove its files."""
        try:
            if self.ct is not None:
                self.ct.close()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


class Viewing:
    """The scans that people look at. Safe to share between threads.

    No thread waits for another one that reads a disk: the lock is held for no longer than it takes
    to look up a name.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._folder = config.viewed_dir
        # The one that was asked for longest ago is the first.
        self._views: OrderedDict[str, View] = OrderedDict()
        # Names of scans of which slices or labels are being opened.
        self._opening: set[str] = set()
        self._lock = threading.Lock()
        self._sweeper: threading.Thread | None = None
        self._number = 0
        # What a board that was killed left there.
        shutil.rmtree(self._folder, ignore_errors=True)

    def known(self, name: str) -> View | None:
        """A scan that somebody looks at; None if nobody does or its files changed."""
        view = self._views.get(name)
        if view is None or view.state != self._state(view.row):
            return None
        with self._lock:
            if name in self._opening or self._views.get(name) is not view:
                return None
            view.asked_s = time.monotonic()
            self._views.move_to_end(name)
        return view

    def view_of(self, row: ScanRow) -> View:
        """Look at a scan.

        Raises
        ------
        NothingToShow
            If there are neither slices nor labels.
        Busy
            If another thread opens it, or other scans that are looked at leave no room.
        """
        if (known := self.known(row.name)) is not None:
            return known
        with self._lock:
            if row.name in self._opening:
                msg = f"{row.name} is being opened"
                raise Busy(msg)
            gone = self._places(row.name)
            self._opening.add(row.name)
            self._number += 1
            folder = self._folder / f"{row.name}-{self._number}"
        try:
            _close(gone)
            view = self._opened(row, folder)
            try:
                self._take_in(view)
            except BaseException:
                with self._lock:
                    self._views.pop(row.name, None)
                view.close()
                raise
        finally:
            with self._lock:
                self._opening.discard(row.name)
        return view

    def _places(self, name: str) -> list[View]:
        """Make a place for a scan, or raise `Busy`; the views to close, no more among the others.

        The lock is held.
        """
        own = self._views.pop(name, None)
        places = MOST_SCANS - len(self._opening) - 1
        idle = self._idle()
        gone = idle[: max(0, len(self._views) - places)]
        if len(self._views) - len(gone) > places:
            if own is not None:
                self._views[name] = own
            msg = f"{MOST_SCANS} scans are being looked at, and no more can be: close one"
            raise Busy(msg)
        for view in gone:
            del self._views[view.row.name]
        return gone if own is None else [own, *gone]

    def _idle(self) -> list[View]:
        """Views that nobody asked for in the last seconds, the longest idle first."""
        now_s = time.monotonic()
        return [view for view in self._views.values() if now_s - view.asked_s >= IN_USE_S]

    def _take_in(self, view: View) -> None:
        """Count a view among those that are looked at, and have its planes written."""
        with self._lock:
            gone = self._room(view)
            self._views[view.row.name] = view
            if self._sweeper is None:
                self._sweeper = threading.Thread(target=self._sweep, name="viewer", daemon=True)
                self._sweeper.start()
        _close(gone)
        self._make_planes(view)

    def close(self) -> None:
        """Look at nothing any more."""
        with self._lock:
            gone = list(self._views.values())
            self._views.clear()
        _close(gone)

    def _opened(self, row: ScanRow, folder: Path) -> View:
        state = self._state(row)
        for each in (self._folder, folder):
            make_private_folder(each)
        ct, no_ct, labels, no_labels = None, "", None, ""
        try:
            paths = [Path(row.folder) / name for name in row.files]
            ct = Ct(paths, folder, assume_hu=self._config.model.assume_hu)
        except CtUnreadable as error:
            no_ct = str(error)
        path = self._labels_path(row)
        if not path.is_file():
            no_labels = "there are no labels on disk"
        else:
            try:
                labels = ShownLabels.unpack(path, folder)
            except LabelsUnreadable as error:
                no_labels = str(error)
        if ct is not None and labels is not None and not labels.fits(ct.grid, ct.rungs):
            labels, no_labels = None, "the labels are of other slices"
        view = View(row, folder, state, ct, no_ct, labels, no_labels)
        if ct is None and labels is None:
            view.close()
            raise NothingToShow("; ".join((no_ct, no_labels)))
        return view

    def _room(self, view: View) -> list[View]:
        """Idle views that leave room for the planes of a CT, or raise `Busy`; the lock is held."""
        ct = view.ct
        gone: list[View] = []
        if ct is None or ct.bytes_on_disk > MOST_BYTES:
            return gone
        taken = sum(map(_bytes_of, self._views.values())) + ct.bytes_on_disk
        for each in self._idle():
            if taken > MOST_BYTES and _bytes_of(each):
                gone.append(each)
                taken -= _bytes_of(each)
        if taken > MOST_BYTES:
            msg = "the scans that are being looked at leave no room for this one: close one"
            raise Busy(msg)
        for each in gone:
            del self._views[each.row.name]
        return gone

    def _make_planes(self, view: View) -> None:
        """Have the planes of a CT written, if the disk has room for them."""
        ct = view.ct
        if ct is None:
            return
        free_bytes = shutil.disk_usage(self._folder).free
        keep_bytes = self._config.receive.refuse_free_mb * 2**20
        if ct.bytes_on_disk > MOST_BYTES:
            view.no_planes = "this scan is too large for other planes than axial ones"
        elif free_bytes - ct.bytes_on_disk < keep_bytes:
            view.no_planes = (
                f"the disk has {free_bytes // 2**20} MB free, too little for other planes than "
                "axial ones"
            )
        else:
            try:
                ct.write()
            except OSError as error:
                view.no_planes = f"other planes than axial ones can't be written: {error}"

    def _labels_path(self, row: ScanRow) -> Path:
        return self._config.results_dir / row.name / "labels.npz"

    def _state(self, row: ScanRow) -> tuple[object, ...]:
        """What changes when labels or slices are written anew or removed."""
        slices = (_written(Path(row.folder) / name) for name in row.files)
        return _written(self._labels_path(row)), hash(tuple(slices))

    def _sweep(self) -> None:
        while True:
            time.sleep(SWEEP_S)
            self.forget_idle(time.monotonic())

    def forget_idle(self, now_s: float) -> None:
        """Forget the scans at which nobody looks any more (monotonic s)."""
        with self._lock:
            gone = [view for view in self._views.values() if now_s - view.asked_s > IDLE_S]
            for view in gone:
                del self._views[view.row.name]
        _close(gone)


def _written(path: Path) -> tuple[int, int]:
    """When a file was written (ns), and its size; zeros if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _bytes_of(view: View) -> int:
    return 0 if view.ct is None or view.no_planes else view.ct.bytes_on_disk


def _close(views: Iterable[View]) -> None:
    """Close views; a fault of one must end neither the sweeper nor another scan's opening."""
    for view in views:
        try:
            view.close()
        except Exception:
            log.exception("viewer: %s could not be closed", view.row.name)
