"""The pages of the board, and what a person may do there."""

from __future__ import annotations

import asyncio
import logging
import mimetypes
import re
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from limn.domain.errors import LimnError
from limn.domain.one_line import one_line
from limn.node.board.access import Visitor, sees_identity
from limn.node.board.accounts.register import Register
from limn.node.board.accounts.sessions import Sessions
from limn.node.board.accounts.sign_in import SignIn
from limn.node.board.beside import Beside, beside
from limn.node.board.edits.pages import EditPages
from limn.node.board.edits.view import EditLine, scan_edits
from limn.node.board.guard import EVENTS, Browsers, Guard
from limn.node.board.hidden_names import HiddenNames, Typed
from limn.node.board.history.pages import HistoryPages
from limn.node.board.peers_page import PeersPage
from limn.node.board.reruns import Reruns, RerunView
from limn.node.board.viewer.header_facts import Facts, header_facts
from limn.node.board.viewer.routes import Viewer
from limn.node.board.views import ScanPage, live, scan_page
from limn.node.config import BoardSettings, Config
from limn.node.operate.history.looks import look
from limn.node.operate.journal_access import journal_to_read
from limn.node.operate.release import discard, release
from limn.node.operate.retry import resend, retry
from limn.node.store.journal.schema import JournalError

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
# A stream whose session has ended is ended by its next ping.
EVERY_S, PING_S = 0.5, 2.0
# A Windows registry may have other types for them, and a browser runs no script of another type.
KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
SCAN = re.compile(r"scan-[0-9]{5,9}")


@dataclass(frozen=True, slots=True)
class Lines:
    """The live page's lines as HTML, and when they were made (monotonic s)."""

    text: str
    made_s: float

    @property
    def fresh(self) -> bool:
        """Whether they are shown as they are."""
        return time.monotonic() - self.made_s < EVERY_S

    @property
    def event(self) -> str:
        """As a server-sent event."""
        return "".join(f"data: {line}\n" for line in self.text.splitlines()) + "\n"


class Board:
    """One node's board.

    Parameters
    ----------
    port : on which it listens, for the Host header
    """

    def __init__(self, config: Config, config_path: Path, port: int) -> None:
        self._config = config
        self._config_path = config_path
        for suffix, kind in KINDS.items():
            mimetypes.add_type(kind, suffix)
        board = (config.board or BoardSettings()).model_copy(update={"port": port})
        self._board = board
        self._browsers = Browsers(secure=board.tls is not None)
        self._names = HiddenNames(config, hides=board.hides_animals)
        register = Register(config.board_accounts_path, must_ask=board.leaves_this_computer)
        sessions = Sessions(register)
        sign_in = SignIn(register, sessions, self._browsers, self._as_it_is)
        self._reruns = Reruns(config, config_path)
        self._making = threading.Lock()
        self._lines = Lines("", float("-inf"))
        self.viewer = Viewer(config, _scan_name, self._names)
        self._pages = Environment(
            loader=PackageLoader("limn.node.board"), autoescape=select_autoescape(default=True)
        )
        self.routes = [
            *sign_in.routes,
            Route("/", self.live_page),
            Route("/events", self.events),
            *HistoryPages(config, self._as_it_is, self._names).routes(),
            *EditPages(config, self._page).routes(),
            *PeersPage(config, self._page, _fields).routes(),
            Route("/{scan}", self.scan),
            Route("/{scan}/file/{name}", self.file),
            *self.viewer.routes(),
            Route("/{scan}/{action}", self.act, methods=["POST"]),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ]
        handlers = dict.fromkeys((HTTPException, LimnError, JournalError), self._refused)
        self.app = Guard(
            Starlette(routes=self.routes, exception_handlers=handlers),
            *(board, sessions, self._browsers, lambda: register.asks, self._refusal),
        )

    def _made(self) -> Lines:
        """The live page's lines, made at most twice a second for all who look."""
        with self._making:
            if not self._lines.fresh:
                made = self._names.over(live(self._config, self._config_path, time.time()))
                text = self._pages.get_template("lines.html").render(
                    live=made, limit_min=self._board.asleep_limit_min
                )
                self._lines = Lines(text, time.monotonic())
            return self._lines

    async def _lines_now(self) -> Lines:
        """The same; without a thread for all but the first who asks."""
        return self._lines if self._lines.fresh else await run_in_threadpool(self._made)

    async def _page(self, request: Request, template: str, **values: object) -> Response:
        """A page; names of animals are taken out of all its values where the site hides them."""
        shown = await run_in_threadpool(self._names.over, values)
        return self._as_it_is(request, template, **shown)

    def _as_it_is(
        self, request: Request, template: str, status: int = 200, **values: object
    ) -> Response:
        """A page of values that have no names, or none but those that this person typed."""
        key = self._browsers.key_of(request)
        is_new, key = not key, key or secrets.token_urlsafe(32)
        visitor: Visitor | None = request.state.visitor
        identity = visitor is not None and sees_identity(visitor, hides_animals=self._names.hides)
        text = self._pages.get_template(template).render(
            token=self._browsers.tokens.of(key),
            path=request.url.path,
            visitor=visitor,
            identity=identity,
            names_shown=not self._names.hides,
            **values,
        )
        answer = HTMLResponse(text, status)
        if is_new:
            self._browsers.give(answer, key)
        return answer

    async def live_page(self, request: Request) -> Response:
        """What comes in, runs, waits, goes out or needs a person."""
        # The template escaped its parts.
        fragment = Markup((await self._lines_now()).text)  # noqa: S704
        week_since = datetime.now(UTC).date() - timedelta(days=6)
        return self._as_it_is(request, "live.html", fragment=fragment, week_since=week_since)

    async def events(self, request: Request) -> Response:
        """The live page's lines, again each time they change (server-sent events)."""

        async def lines() -> AsyncIterator[str]:
            shown, sent_s = "", time.monotonic()
            while not await request.is_disconnected():
                now = await self._lines_now()
                if now.text != shown:
                    shown, sent_s = now.text, time.monotonic()
                    yield now.event
                elif time.monotonic() - sent_s > PING_S:
                    sent_s = time.monotonic()
                    yield ": still there\n\n"
                await asyncio.sleep(EVERY_S)

        return StreamingResponse(lines(), media_type=EVENTS)

    async def scan(self, request: Request) -> Response:
        """One scan."""
        name = _scan_name(request)

        def found() -> tuple[ScanPage, Beside, RerunView, tuple[EditLine, ...], Facts]:
            with journal_to_read(self._config) as journal:
                row = journal.named([name]).get(name) if journal is not None else None
                if row is None or journal is None:
                    raise HTTPException(404, f"there is no {name}")
                return (
                    scan_page(journal, row, self._config),
                    beside(self._config, row),
                    self._reruns.view(journal, row),
                    scan_edits(journal, row.id),
                    header_facts(row, names_shown=not self._names.hides),
                )

        page, around, again, edits, header = await run_in_threadpool(found)
        said = Typed(self._said(request))
        values = {"scan": page, "beside": around, "again": again, "edits": edits, "said": said}
        values["header"] = header
        return await self._page(request, "scan.html", **values)

    async def file(self, request: Request) -> Response:
        """A file of a scan; only those that its page lists."""
        name, wanted = _scan_name(request), request.path_params["name"]
        folder = self._config.results_dir / name

        def found() -> Path | None:
            files = (*folder.glob("RS.*.dcm"), folder / "picture.png", *folder.glob("edit-*.png"))
            files += (*folder.glob("forms/*"),)
            # Not what a link leads to: only the node's own files.
            return next(
                (
                    each
                    for each in files
                    if each.name == wanted
                    and each.is_file()
                    and each.resolve().parent in (folder.resolve(), (folder / "forms").resolve())
                ),
                None,
            )

        path = await run_in_threadpool(found)
        if path is None:
            raise HTTPException(404, f"{name} has no such file")
        shown = path.suffix == ".png"
        return FileResponse(
            path,
            media_type="image/png" if shown else "application/octet-stream",
            filename=None if shown else f"{name}.{path.name}",
        )

    async def act(self, request: Request) -> Response:
        """Release, discard, send or run again by a person's order, or note that one has looked."""
        name, action = _scan_name(request), request.path_params["action"]
        form = await _fields(request)
        visitor: Visitor = request.state.visitor
        by = visitor.name or form.get("by", "").strip()
        why = form.get("why", "").strip()
        if not by:
            raise HTTPException(400, "give your name: it stands in the log")
        act = self._actions(name, by, why, form.get("bundle", "")).get(action)
        if act is None:
            raise HTTPException(404, "there is no such action")
        await run_in_threadpool(act)
        words = (one_line(each) for each in (action, by, visitor.address, why or "none"))
        log.info("%s: board: %s, by %s from %s, reason: %s", name, *words)
        done = "ordered" if action == "rerun" else "done"
        said = f"{action}: {done}, by {by}"
        seal = self._browsers.tokens.of(self._sealed(request, said))
        query = urlencode({"said": said, "seal": seal})
        return RedirectResponse(f"/{name}?{query}", status_code=303)

    def _said(self, request: Request) -> str:
        """What was done, in words that the board itself gave this browser for this scan.

        A link of others must not say that a scan was released.
        """
        said = request.query_params.get("said", "")
        seal = request.query_params.get("seal", "")
        fits = self._browsers.tokens.fits(self._sealed(request, said), seal)
        return said if fits else ""

    def _sealed(self, request: Request, said: str) -> str:
        return f"{self._browsers.key_of(request)} {request.path_params['scan']} {said}"

    def _actions(self, name: str, by: str, why: str, bundle: str) -> dict[str, Callable[[], None]]:
        path = self._config_path
        return {
            "release": lambda: release(path, [name], by=by, why=why or None, yes=True),
            "discard": lambda: discard(path, [name], why, by=by, yes=True),
            "resend": lambda: resend(path, [name], None),
            "retry": lambda: retry(path, [name]),
            "rerun": lambda: self._reruns.order(name, bundle, by=by, why=why),
            "look": lambda: look(path, name, by=by),
        }

    async def _refused(self, request: Request, error: Exception) -> Response:
        status, words = 409, str(error)
        if isinstance(error, HTTPException):
            status, words = error.status_code, error.detail
            if error.__cause__ is None:
                # Words of the board's own, or what was typed.
                return self._refusal(request, status, words)
        if isinstance(error, JournalError):
            return self._refusal(request, 503, "the journal can't be read; limn check says why")
        words = await run_in_threadpool(self._names.over, words)
        return self._refusal(request, status, words)

    def _refusal(self, request: Request, status: int, words: str) -> Response:
        heading = "Not done" if request.method == "POST" else "Nothing to show"
        return self._as_it_is(request, "refused.html", status, words=words, heading=heading)


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form; the guard has looked whose it is."""
    return {key: str(value) for key, value in (await request.form()).items()}


def _scan_name(request: Request) -> str:
    name = str(request.path_params["scan"])
    if SCAN.fullmatch(name) is None:
        raise HTTPException(404, "there is no such page")
    return name
