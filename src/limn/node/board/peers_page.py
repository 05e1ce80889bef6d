"""The page of the peers: how each does, and a button that tries a destination now."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from limn.domain.errors import LimnError
from limn.domain.one_line import one_line
from limn.node.board.access import Visitor
from limn.node.board.peers import Trial, peers
from limn.node.config import Config
from limn.node.operate.try_destination import try_destination

log = logging.getLogger(__name__)

# A browser waits so long for the answer; a peer that hangs is cut later by its own deadline.
ANSWER_S = 15.0


class PeersPage:
    """The routes of this page.

    Parameters
    ----------
    page : answers with a template and its values
    fields : of a form
    """

    def __init__(
        self,
        config: Config,
        page: Callable[..., Awaitable[Response]],
        fields: Callable[[Request], Awaitable[dict[str, str]]],
    ) -> None:
        self._config = config
        self._page = page
        self._fields = fields
        self._trials: dict[int, Trial] = {}
        # Places of the destinations that are being tried: one trial of each at a time.
        self._running: dict[int, threading.Event] = {}
        self._lock = threading.Lock()

    def routes(self) -> list[Route]:
        """What the board adds to its own."""
        return [Route("/peers", self.show), Route("/peers/try", self.attempt, methods=["POST"])]

    async def show(self, request: Request) -> Response:
        """Destinations and senders."""
        found = await run_in_threadpool(peers, self._config, dict(self._trials))
        return await self._page(
            request, "peers.html", peers=found, running=frozenset(self._running)
        )

    async def attempt(self, request: Request) -> Response:
        """Try one destination, by a person's order."""
        text = (await self._fields(request)).get("destination", "")
        number = int(text) if text.isdecimal() and len(text) < 4 else -1
        if not 0 <= number < len(self._config.destination):
            raise HTTPException(404, "there is no such destination")
        visitor: Visitor = request.state.visitor
        by = one_line(visitor.name) or "somebody at this computer"
        ended = self._begin(number, f"{by} from {one_line(visitor.address)}")
        until_s = time.monotonic() + ANSWER_S
        while not ended.is_set() and time.monotonic() < until_s:
            await asyncio.sleep(0.05)
        return RedirectResponse(f"/peers#destination-{number}", status_code=303)

    def _begin(self, number: int, by: str) -> threading.Event:
        """Start a trial, or join the one that runs; the event tells its end."""
        with self._lock:
            if number in self._running:
                return self._running[number]
            ended = self._running[number] = threading.Event()
        # A folder on a share that hangs must not keep the board from ending.
        threading.Thread(
            target=self._try, args=(number, by, ended), name="try destination", daemon=True
        ).start()
        return ended

    def _try(self, number: int, by: str, ended: threading.Event) -> None:
        destination = self._config.destination[number]
        try:
            words = try_destination(
                destination, self._config.receive.ae_title, self._config.data_dir
            )
            trial = Trial(time.time(), good=True, words=one_line(words))
        except (LimnError, OSError) as error:
            trial = Trial(time.time(), good=False, words=one_line(error))
        except Exception as error:
            log.exception("%s could not be tried; please report it", destination.name)
            words = f"limn failed to try it ({type(error).__name__}); see limn.log and report it"
            trial = Trial(time.time(), good=False, words=words)
        log.info("board: %s was tried by %s: %s", destination.name, by, trial.words)
        with self._lock:
            self._trials[number] = trial
            del self._running[number]
        ended.set()
