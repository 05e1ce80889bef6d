"""The routes of the history: its page and CSV, an animal, a contact sheet, small pictures."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from limn.node.board.edits.view import edit_marks
from limn.node.board.hidden_names import HiddenNames
from limn.node.board.history.animal_view import AnimalPage, animal_page
from limn.node.board.history.thumbnails import Thumbnails
from limn.node.board.history.view import BY, LIGHTS, WHAT, History, Shown, history_of
from limn.node.config import Config
from limn.node.operate.history.animals import courses_of, roi_measure
from limn.node.operate.history.choice import Choice, csv_of, names_in
from limn.node.operate.history.looks import looks_words
from limn.node.operate.history.scans import LoggedScan, logged_scan
from limn.node.operate.history.summary import Usual
from limn.node.operate.journal_access import journal_to_read
from limn.node.store.disk import scanlog

# Pictures of one contact sheet; more are on the next.
SHEET = 60
# Names that a form proposes.
MOST_NAMES = 300
# Pages that were asked for lately, as values: many browsers may look at the same one.
MOST_KEPT = 8
SPANS = (("7 days", 7), ("30 days", 30), ("a year", 365))
Texts = TypeVar("Texts", Choice, Shown)


class Renders(Protocol):
    """Answers with a page of a template."""

    def __call__(
        self, request: Request, template: str, status: int = 200, **values: object
    ) -> Response:
        """The page; ``values`` are the template's."""


class HistoryPages:
    """The history of one node.

    Parameters
    ----------
    page : answers with a page of the board, whose values it leaves as they are
    names : hidden ones never reach the pages
    """

    def __init__(self, config: Config, page: Renders, names: HiddenNames) -> None:
        self._config = config
        self._page = page
        self._names = names
        self._log = scanlog.LogFollower(config.scan_log_path, self._logged)
        self._rois = scanlog.LogFollower(scanlog.roi_table(config.scan_log_path), roi_measure)
        self._thumbnails = Thumbnails()
        self._lock = threading.Lock()
        self._known: tuple[object, Usual, dict[str, list[str]]] | None = None
        self._kept: OrderedDict[object, History] = OrderedDict()

    def routes(self) -> list[Route]:
        """For the board; before the routes of scans, which take any name."""
        return [
            Route("/history", self.history),
            Route("/history.csv", self.csv),
            Route("/animal", self.animal),
            Route("/contacts", self.contacts),
            Route("/thumbnail/{scan}", self.thumbnail),
        ]

    def _logged(self, row: dict[str, str]) -> LoggedScan:
        return logged_scan(self._names.rows([row])[0])

    def _scans(self) -> list[LoggedScan]:
        return _rows(self._log)

    def _of_all(self, scans: Sequence[LoggedScan]) -> tuple[Usual, dict[str, list[str]]]:
        """What is usual, and the names that there are; made anew once the log has grown."""
        state = _state(scans)
        with self._lock:
            if self._known is None or self._known[0] != state:
                self._known = state, Usual(scans), names_in(scans, MOST_NAMES)
            return self._known[1:]

    def _history(
        self, choice: Choice, shown: Shown, *, wrong: bool
    ) -> tuple[History, dict[str, Any]]:
        """The page's values; of nothing if what was asked for can't be read."""
        scans = [] if wrong else self._scans()
        key = choice, shown, _state(scans)
        usual, names = self._of_all(scans)
        with self._lock:
            known = self._kept.get(key)
        found = known or history_of(scans, usual, choice, shown)
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return found, {"names": names, **self._looks(found)}

    def _looks(self, history: History) -> dict[str, Any]:
        """Who looked at the scans of the table, and what became of those that came back."""
        with journal_to_read(self._config) as journal:
            if journal is None:
                return {"looks": {}, "edits": {}}
            names = {scan.name for scan, _ in history.rows}
            looks = journal.looks_at(names)
            edits = edit_marks(journal, names)
        return {"looks": {name: looks_words(own) for name, own in looks.items()}, "edits": edits}

    async def history(self, request: Request) -> Response:
        """Scans that are done, what is usual, and why one was slow."""
        choice, shown = _texts(request, Choice), _texts(request, Shown)
        wrong = choice.wrong() or shown.wrong
        by = BY
        if self._names.hides:
            # A cohort is the beginning of a name.
            by = {name: of for name, of in BY.items() if name != "cohort"}
            wrong = wrong or (
                "apart by cohort: not while names are hidden" if shown.by not in ("", *by) else ""
            )
        read = (Choice(), Shown()) if wrong else (choice, shown)
        found, more = await run_in_threadpool(self._history, *read, wrong=bool(wrong))
        return self._page(
            request,
            "history.html",
            history=found,
            choice=choice,
            shown=shown,
            wrong=wrong,
            spans=_spans(request),
            query=_query(request, drop=("what", "by", "sort")),
            sorted_query=_query(request, sort="" if shown.sort else "slowest"),
            cohort_query=lambda name: _query(request, animal=f"{name}*"),
            what=WHAT,
            by=by,
            lights=LIGHTS,
            **more,
        )

    async def csv(self, request: Request) -> Response:
        """The chosen scans as `limn log --csv` prints them, by the same functions."""
        choice = _texts(request, Choice)
        if why := choice.wrong():
            raise HTTPException(400, why)

        def written() -> str:
            rows = self._names.rows(scanlog.rows(self._config.scan_log_path))
            return csv_of(choice.rows_of(rows))

        headers = {"Content-Disposition": 'attachment; filename="scans.csv"'}
        return Response(await run_in_threadpool(written), media_type="text/csv", headers=headers)

    async def animal(self, request: Request) -> Response:
        """One animal: volumes and lung density over time, and its pictures."""
        if self._names.hides:
            raise HTTPException(
                404, "an animal's page has its name in it: there is none while names are hidden"
            )
        animal = request.query_params.get("id", "")

        def found() -> AnimalPage:
            scans = Choice().of(scan for scan in self._scans() if scan.animal == animal)
            if not scans:
                raise HTTPException(404, "the scan log has no scan of this animal")
            return animal_page(animal, scans, courses_of(animal, _rows(self._rois)))

        page = await run_in_threadpool(found)
        pictured = await run_in_threadpool(self._pictured, page.scans[:SHEET])
        return self._page(request, "animal.html", animal=page, scans=pictured)

    async def contacts(self, request: Request) -> Response:
        """The pictures of the chosen scans, newest first."""
        choice = _texts(request, Choice)
        page = request.query_params.get("page", "1")[:9]
        number = max(1, int(page)) if page.isdecimal() else 1

        def found() -> tuple[list[tuple[LoggedScan, bool]], int]:
            chosen = [] if choice.wrong() else choice.of(self._scans())
            # A scan that was logged again has one picture.
            scans = list({scan.name: scan for scan in chosen}.values())[::-1]
            return self._pictured(scans[SHEET * (number - 1) : SHEET * number]), len(scans)

        scans, count = await run_in_threadpool(found)
        return self._page(
            request,
            "contacts.html",
            scans=scans,
            count=count,
            first=SHEET * (number - 1),
            wrong=choice.wrong(),
            query=_query(request, drop=("page",)),
            newer=_query(request, page=str(number - 1)) if number > 1 else "",
            older=_query(request, page=str(number + 1)) if SHEET * number < count else "",
        )

    def _pictured(self, scans: Sequence[LoggedScan]) -> list[tuple[LoggedScan, bool]]:
        """Each scan, and whether its picture is still on disk."""
        folder = self._config.results_dir
        return [(scan, (folder / scan.name / "picture.png").is_file()) for scan in scans]

    async def thumbnail(self, request: Request) -> Response:
        """A small copy of a scan's picture."""
        name = request.path_params["scan"]
        if not name.startswith("scan-") or not name[5:].isdecimal():
            raise HTTPException(404, "there is no such picture")
        path = self._config.results_dir / name / "picture.png"
        try:
            made = await run_in_threadpool(self._thumbnails.of, path)
        except OSError as error:
            raise HTTPException(404, "there is no picture that can be read") from error
        return Response(made, media_type="image/jpeg")


Kept = TypeVar("Kept")


def _rows(follower: scanlog.LogFollower[Kept]) -> list[Kept]:
    try:
        return follower.rows()
    except OSError:
        # No scan has ended yet.
        return []


def _state(scans: Sequence[LoggedScan]) -> object:
    """Differs once the log has grown or was read anew."""
    return len(scans), id(scans[-1]) if scans else 0


def _texts(request: Request, kind: Callable[..., Texts]) -> Texts:
    """A choice from a page's address; what is not in it is as by default."""
    given = {
        each.name: text
        for each in fields(kind)  # type: ignore[arg-type]
        if (text := request.query_params.get(each.name, "").strip())
    }
    return kind(**given)


def _query(request: Request, drop: Sequence[str] = (), **change: str) -> str:
    """The page's own choice as the end of an address, with some texts changed."""
    texts: Mapping[str, str] = {**request.query_params, **change}
    return urlencode({name: text for name, text in texts.items() if text and name not in drop})


def _spans(request: Request) -> list[tuple[str, str]]:
    """The last days, as words and the end of an address."""
    today = datetime.now(UTC).date()
    return [
        *(
            (words, _query(request, since=str(today - timedelta(days=days - 1)), until=""))
            for words, days in SPANS
        ),
        ("all", _query(request, since="", until="")),
    ]
