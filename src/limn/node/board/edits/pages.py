"""The route of the page of edits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from limn.node.board.edits.view import EditsPage, edits_page
from limn.node.config import Config
from limn.node.operate.journal_access import journal_to_read


class EditPages:
    """What persons changed, on one page.

    Parameters
    ----------
    page : answers with a template and its values
    """

    def __init__(self, config: Config, page: Callable[..., Awaitable[Response]]) -> None:
        self._config = config
        self._page = page

    def routes(self) -> list[Route]:
        """For the board; before the routes of scans, which take any name."""
        return [Route("/edits", self.edits)]

    async def edits(self, request: Request) -> Response:
        """Charts of each scanner, what drifts, and the last structure sets that came back."""

        def found() -> EditsPage:
            with journal_to_read(self._config) as journal:
                if journal is None:
                    return EditsPage(counts=(), drifts=(), charts=(), lines=(), others=())
                return edits_page(journal)

        return await self._page(request, "edits.html", edits=await run_in_threadpool(found))
