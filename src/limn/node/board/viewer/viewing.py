"""The scans that people look at: a few at a time, their files bounded in bytes and time."""

from __future__ import annotations

import shutil
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from limn.domain.geometry import Grid, IntArray, even_grid
from limn.node.board.viewer.ct import Ct, CtUnreadable
from limn.node.board.viewer.hanging import Hanging
from limn.node.board.viewer.shown_labels import LabelsUnreadable, ShownLabels
from limn.node.config import Config
from limn.node.permissions import make_private_folder
from limn.node.store.journal.rows import ScanRow

# So many scans are looked at; the voxels of all take so many bytes on disk at most.
MOST_SCANS = 3
MOST_BYTES = 3 * 2**30
# Nobody looks at a scan of which nothing was asked for so long.
IDLE_S = 600.0
SWEEP_S = 15.0


class NothingToShow(Exception):
    """Neither the slices nor the labels of a scan can be shown; the text says why."""


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
    def hanging(self) -> Hanging:
        """How its planes hang."""
        return Hanging.of(self.grid)

    def close(self) -> None:
        """End its process and remove its files."""
        if self.ct is not None:
            self.ct.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Viewing:
    """The scans that people look at. Safe to share between threads."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._folder = config.viewed_dir
        self._views: OrderedDict[str, View] = OrderedDict()
        self._lock = threading.Lock()
        self._sweeper: threading.Thread | None = None
        self._number = 0
        # What a board that was killed left there.
        shutil.rmtree(self._folder, ignore_errors=True)

    def known(self, name: str) -> View | None:
        """A scan that somebody looks at; None if nobody does or its files changed."""
        with self._lock:
            view = self._views.get(name)
            if view is None or view.state != self._state(view.row):
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
        """
        if (known := self.known(row.name)) is not None:
            return known
        with self._lock:
            self._forget(row.name)
            while len(self._views) >= MOST_SCANS:
                self._forget(next(iter(self._views)))
            view = self._opened(row)
            self._views[row.name] = view
            self._make_planes(view)
            if self._sweeper is None:
                self._sweeper = threading.Thread(target=self._sweep, name="viewer", daemon=True)
                self._sweeper.start()
            return view

    def close(self) -> None:
        """Look at nothing any more."""
        with self._lock:
            for name in tuple(self._views):
                self._forget(name)

    def _opened(self, row: ScanRow) -> View:
        self._number += 1
        folder = self._folder / f"{row.name}-{self._number}"
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
        view = View(row, folder, self._state(row), ct, no_ct, labels, no_labels)
        if ct is None and labels is None:
            view.close()
            raise NothingToShow("; ".join((no_ct, no_labels)))
        return view

    def _make_planes(self, view: View) -> None:
        """Have the planes of a CT written, if the disk has room for them."""
        ct = view.ct
        if ct is None:
            return
        others = [name for name, each in self._views.items() if each is not view and each.ct]
        taken = {name: self._bytes_of(self._views[name]) for name in others}
        for name in others:
            if sum(taken.values()) + ct.bytes_on_disk <= MOST_BYTES:
                break
            taken.pop(name)
            self._forget(name)
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
            ct.write()

    def _bytes_of(self, view: View) -> int:
        return 0 if view.ct is None or view.no_planes else view.ct.bytes_on_disk

    def _labels_path(self, row: ScanRow) -> Path:
        return self._config.results_dir / row.name / "labels.npz"

    def _state(self, row: ScanRow) -> tuple[object, ...]:
        """What changes when the labels are written anew, or the slices are removed."""
        try:
            found = self._labels_path(row).stat()
            labels = found.st_mtime_ns, found.st_size
        except OSError:
            labels = 0, 0
        return (*labels, bool(row.files) and (Path(row.folder) / row.files[0]).is_file())

    def _forget(self, name: str) -> None:
        view = self._views.pop(name, None)
        if view is not None:
            view.close()

    def _sweep(self) -> None:
        while True:
            time.sleep(SWEEP_S)
            self.forget_idle(time.monotonic())

    def forget_idle(self, now_s: float) -> None:
        """Forget the scans at which nobody looks any more (monotonic s)."""
        with self._lock:
            for name, view in tuple(self._views.items()):
                if now_s - view.asked_s > IDLE_S:
                    self._forget(name)
