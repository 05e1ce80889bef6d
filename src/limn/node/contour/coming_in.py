"""Has an idle worker read a series while it still comes in (D-274)."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from distributed import Client

from limn.node.config import Config
from limn.node.contour.work.worker import read_ahead
from limn.node.store.disk.receiving import read_receiving
from limn.node.store.disk.spool import Spool

log = logging.getLogger(__name__)

# While a series comes in, a worker is asked no more often than this.
ASK_S = 0.5


class ComingIn:
    """Asks a worker to read ahead; whatever becomes of it, no scan waits for it or fails."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._asked_s = float("-inf")
        self._asking: threading.Thread | None = None

    def look(self, client: Client, worker: str) -> None:
        """Ask a worker that has nothing to do, if a series comes in; it returns at once."""
        now_s = time.monotonic()
        if now_s - self._asked_s < ASK_S or self._config.engine.pixels != "path":
            return
        if self._asking is not None and self._asking.is_alive():
            return
        for series in read_receiving(self._config.receiving_path, time.time()):
            # An image of another format is no series yet.
            if series.series_instance_uid:
                spool = Spool(self._config.spool_dir, min_free_bytes=0)
                asked = (client, worker, spool.folder(series.series_instance_uid))
                # In its own thread: one that does not answer must not keep scans from others.
                self._asking = threading.Thread(target=_ask, args=asked, daemon=True)
                self._asking.start()
                self._asked_s = now_s
                return


def _ask(client: Client, worker: str, folder: Path) -> None:
    try:
        client.run(read_ahead, str(folder), workers=[worker])
    except Exception as error:  # noqa: BLE001 - the scan's job reads its files itself
        log.debug("worker %s reads nothing ahead: %r", worker, error)
