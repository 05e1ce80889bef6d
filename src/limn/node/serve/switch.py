"""Notices a promoted bundle, and says when a running node takes it up: in a lull, between scans."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path

from limn.domain.errors import ConfigWrong, LimnError
from limn.node.config import Config, load_written_config, with_bundle
from limn.node.contour.site_bundle import deliverable_bundle
from limn.node.promotions import PROMOTIONS, Promotion, end_wait, waiting_promotion
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.schema import JournalError
from limn.node.store.lull import Lull

log = logging.getLogger(__name__)

LOOK_S = 0.5
# After a disk that did not take the note of it; each try stops every process of the node.
REST_S = 60.0


class BundleSwitch:
    """A supervisor's look at the promotions of its data folder.

    Parameters
    ----------
    receives : whether series come to this host; another one takes a promotion up at once
    """

    def __init__(self, config: Config, *, receives: bool) -> None:
        self._config = config
        self._receives = receives
        self._looked_s = float("-inf")
        self._known: int | None = None
        self._waits = False
        self._lull: Lull | None = None
        self._journal: JournalReader | None = None

    def is_due(self) -> bool:
        """Whether a promotion waits and this is a moment to take it up."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_S:
            return False
        self._looked_s = now_s
        if not self._one_waits():
            self.close()
            return False
        return not self.lull_is_over()

    def lull_is_over(self) -> bool:
        """Whether live scans have come since `is_due`; to be asked before processes are stopped."""
        return self._receives and not self._is_lull()

    def rest(self) -> None:
        """Look again after `REST_S` only."""
        self._looked_s = time.monotonic() + REST_S

    def close(self) -> None:
        """Look at the journal no more."""
        journal, self._journal, self._lull = self._journal, None, None
        if journal is not None:
            journal.close()

    def _one_waits(self) -> bool:
        changed = None
        with suppress(OSError):
            changed = (self._config.data_dir / PROMOTIONS).stat().st_mtime_ns
        if changed != self._known:
            try:
                self._waits = waiting_promotion(self._config.data_dir) is not None
            except ConfigWrong as error:
                self._waits = False
                log.error("%s", error)
            except OSError:
                # Windows lets nobody read a file that is being replaced.
                return False
            self._known = changed
        return self._waits

    def _is_lull(self) -> bool:
        try:
            if self._lull is None:
                self._journal = JournalReader(self._config.journal_path)
                self._lull = Lull(self._config, self._journal)
            return not self._lull.broken_by()
        except (JournalError, OSError) as error:
            log.warning("a promoted bundle waits: %s", error)
            self.close()
            return False


def promoted_config(config_path: Path, data_dir: Path) -> tuple[Promotion, Config] | None:
    """The promotion that waits, and the config with its bundle.

    None if none waits, or if it can't be taken up: then the reason is noted. Nothing is in force
    yet: `end_wait` follows once nothing runs with the bundle before it.

    Raises
    ------
    OSError
        If the disk does not take the reason.
    """
    promotion = waiting_promotion(data_dir)
    if promotion is None:
        return None
    try:
        written = load_written_config(config_path)
        if str(written.model.bundle) != promotion.config_bundle:
            msg = f"{config_path} names another bundle by now: {written.model.bundle}"
            raise ConfigWrong(msg)
        config = with_bundle(written, Path(promotion.bundle))
        found = deliverable_bundle(config)
        if found.sha256 != promotion.sha256:
            msg = f"{promotion.bundle} was changed since it was promoted"
            raise ConfigWrong(msg)
    except LimnError as error:
        log.error("%s is not promoted: %s", promotion.label, error)
        end_wait(data_dir, promotion, time.time(), refused=str(error))
        return None
    return promotion, config
