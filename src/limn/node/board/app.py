"""The pages of the board, and what a person may do there."""

from __future__ import annotations

import asyncio
import csv
import io
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import fields
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
from limn.domain.records import ScanRecord
from limn.node.board.access import Visitor, sees_identity
from limn.node.board.accounts.register import Register
from limn.node.board.accounts.sessions import Sessions
from limn.node.board.accounts.sign_in import SignIn
from limn.node.board.guard import EVENTS, Browsers, Guard
from limn.node.board.hidden_names import HiddenNames
from limn.node.board.views import Choice, Live, history, live, scan_page
from limn.node.config import BoardSettings, Config
from limn.node.operate.journal_access import journal_to_read
from limn.node.operate.release import discard, release
from limn.node.operate.retry import resend, retry
from limn.node.store.disk import scanlog

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
# A stream whose session has ended is ended by its next ping.
EVERY_S, PING_S = 0.5, 2.0
SCAN = re.compile(r"scan-\d{5,9}")


class Board:
    """One node's board.

    Parameters
    ----------
    port : on which it listens, for the Host header
    """

    def __init__(self, config: Config, config_path: Path, port: int) -> None:
        self._config = config
        self._config_path = config_path
        board = (config.board or BoardSettings()).model_copy(update={"port": port})
        self._board = board
        self._browsers = Browsers(secure=board.tls is not None)
        self._names = HiddenNames(config, hides=board.hides_animals)
        register = Register(config.board_accounts_path, must_ask=board.leaves_this_computer)
        sessions = Sessions(register)
        sign_in = SignIn(register, sessions, self._browsers, self._page)
        self._log = scanlog.LogFollower(config.scan_log_path)
        self._live: tuple[float, Live] | None = None
        self._shown: tuple[Live | None, Markup] = None, Markup()
        self._pages = Environment(
            loader=PackageLoader("limn.node.board"), autoescape=select_autoescape(default=True)
        )
        self.routes = [
            *sign_in.routes,
            Route("/", self.live_page),
            Route("/events", self.events),
            Route("/history", self.history_page),
            Route("/history.csv", self.history_csv),
            Route("/{scan}", self.scan),
            Route("/{scan}/file/{name}", self.file),
            Route("/{scan}/{action}", self.act, methods=["POST"]),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ]
        handlers = {HTTPException: self._refused, LimnError: self._refused}
        self.app = Guard(
            Starlette(routes=self.routes, exception_handlers=handlers),
            *(board, sessions, self._browsers, lambda: register.asks, self._refusal),
        )

    def _now(self) -> Live:
        """The live view, computed at most twice a second for all who look."""
        now_s = time.monotonic()
        if self._live is None or now_s - self._live[0] >= EVERY_S:
            self._live = now_s, live(self._config, self._config_path, time.time())
        return self._live[1]

    def _fragment(self) -> Markup:
        """The live page's lines as HTML, made once for all who look."""
        live = self._now()
        if self._shown[0] is not live:
            text = self._pages.get_template("lines.html").render(
                live=self._names.over(live), limit_min=self._board.asleep_limit_min
            )
            self._shown = live, Markup(text)  # noqa: S704 - its parts are escaped
        return self._shown[1]

    def _page(
        self, request: Request, template: str, status: int = 200, **values: object
    ) -> Response:
        """A page; names of animals are taken out of all its values where the site hides them."""
        key = self._browsers.key_of(request)
        is_new, key = not key, key or secrets.token_urlsafe(32)
        visitor: Visitor | None = request.state.visitor
        identity = visitor is not None and sees_identity(visitor, hides_animals=self._names.hides)
        text = self._pages.get_template(template).render(
            token=self._browsers.tokens.of(key),
            path=request.url.path,
            visitor=visitor,
            identity=identity,
            # What this person typed is shown as it is.
            **{
                name: value if isinstance(value, Choice) else self._names.over(value)
                for name, value in values.items()
            },
        )
        answer = HTMLResponse(text, status)
        if is_new:
            self._browsers.give(answer, key)
        return answer

    async def live_page(self, request: Request) -> Response:
        """What comes in, runs, waits, goes out or needs a person."""
        fragment = await run_in_threadpool(self._fragment)
        return self._page(request, "live.html", fragment=fragment)

    async def events(self, request: Request) -> Response:
        """The live page's lines, again each time they change (server-sent events)."""

        async def lines() -> AsyncIterator[str]:
            shown, sent_s = "", time.monotonic()
            while not await request.is_disconnected():
                fragment = await run_in_threadpool(self._fragment)
                if fragment != shown:
                    shown, sent_s = fragment, time.monotonic()
                    data = "".join(f"data: {line}\n" for line in str(fragment).splitlines())
                    yield f"{data}\n"
                elif time.monotonic() - sent_s > PING_S:
                    sent_s = time.monotonic()
                    yield ": still there\n\n"
                await asyncio.sleep(EVERY_S)

        return StreamingResponse(lines(), media_type=EVENTS)

    async def scan(self, request: Request) -> Response:
        """One scan."""
        name = _scan_name(request)

        def found() -> object:
            with journal_to_read(self._config) as journal:
                row = journal.named([name]).get(name) if journal is not None else None
                if row is None or journal is None:
                    raise HTTPException(404, f"there is no {name}")
                return scan_page(journal, row, self._config)

        page = await run_in_threadpool(found)
        return self._page(
            request, "scan.html", scan=page, said=request.query_params.get("said", "")
        )

    async def file(self, request: Request) -> Response:
        """A file of a scan; only those that its page lists."""
        name, wanted = _scan_name(request), request.path_params["name"]
        folder = self._config.results_dir / name

        def found() -> Path | None:
            files = (*folder.glob("RS.*.dcm"), folder / "picture.png", *folder.glob("forms/*"))
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
            raise HTTPException(404, f"{name} has no file {wanted}")
        shown = path.suffix == ".png"
        return FileResponse(
            path,
            media_type="image/png" if shown else "application/octet-stream",
            filename=None if shown else f"{name}.{path.name}",
        )

    async def history_page(self, request: Request) -> Response:
        """Scans that are done."""
        choice = _choice(request)
        rows = [] if choice.wrong else await self._rows()
        found = await run_in_threadpool(history, rows, choice)
        query = urlencode({k: v for k, v in request.query_params.items() if v})
        return self._page(request, "history.html", history=found, choice=choice, query=query)

    async def history_csv(self, request: Request) -> Response:
        """The chosen scans as `limn log --csv` prints them."""
        choice = _choice(request)
        if choice.wrong:
            raise HTTPException(400, choice.wrong)
        rows = await self._rows()

        def written() -> str:
            text = io.StringIO()
            writer = csv.DictWriter(text, ScanRecord.columns(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(scanlog.neutral(row) for row in rows if choice.takes(row))
            return text.getvalue()

        headers = {"Content-Disposition": 'attachment; filename="scans.csv"'}
        text = await run_in_threadpool(written)
        return Response(text, media_type="text/csv", headers=headers)

    async def _rows(self) -> list[dict[str, str]]:
        try:
            return await run_in_threadpool(lambda: self._names.rows(self._log.rows()))
        except OSError:
            # No scan has ended yet.
            return []

    async def act(self, request: Request) -> Response:
        """Release, discard, send again or run again, by a person's order."""
        name, action = _scan_name(request), request.path_params["action"]
        form = {key: str(value) for key, value in (await request.form()).items()}
        visitor: Visitor = request.state.visitor
        by = visitor.name or form.get("by", "").strip()
        why = form.get("why", "").strip()
        if not by:
            raise HTTPException(400, "give your name: it stands in the log")
        act = self._actions(name, by, why).get(action)
        if act is None:
            raise HTTPException(404, f"there is no action {action}")
        await run_in_threadpool(act)
        words = (one_line(each) for each in (action, by, visitor.address, why or "none"))
        log.info("%s: board: %s, by %s from %s, reason: %s", name, *words)
        said = urlencode({"said": f"{action}: done, by {by}"})
        return RedirectResponse(f"/{name}?{said}", status_code=303)

    def _actions(self, name: str, by: str, why: str) -> dict[str, Callable[[], None]]:
        path = self._config_path
        return {
            "release": lambda: release(path, [name], by=by, why=why or None, yes=True),
            "discard": lambda: discard(path, [name], why, by=by, yes=True),
            "resend": lambda: resend(path, [name], None),
            "retry": lambda: retry(path, [name]),
        }

    async def _refused(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 409
        words = error.detail if isinstance(error, HTTPException) else str(error)
        return self._refusal(request, status, words)

    def _refusal(self, request: Request, status: int, words: str) -> Response:
        return self._page(request, "refused.html", status, words=words)


def _scan_name(request: Request) -> str:
    name = str(request.path_params["scan"])
    if SCAN.fullmatch(name) is None:
        raise HTTPException(404, "there is no such page")
    return name


def _choice(request: Request) -> Choice:
    return Choice(
        **{each.name: request.query_params.get(each.name, "").strip() for each in fields(Choice)}
    )
