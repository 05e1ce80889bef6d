"""What peers said last: a small file of the engine on destinations, one of the receiver on senders.

Both are for people and for the metrics; no delivery and no instance waits for them. A process that
starts goes on with the figures of the file, so that a restart resets none.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from limn.domain.one_line import one_line
from limn.node.store.disk.notice import read_notice, write_notice

# So many senders are kept; whoever scans the port with names of its own pushes out no scanner.
MOST_SENDERS = 64
LONGEST_WORDS = 500
WRITE_EVERY_S = 2.0
# UTC seconds of what never was.
NEVER = 0.0
# What another content of a file than ours raises.
UNREADABLE = (AttributeError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationContact:
    """What one destination said. Times are UTC seconds.

    Attributes
    ----------
    said : its last answer, in words
    accepted_at : when it last took a file
    failing_since : when it was first away, or without room, after it had last taken a file; `NEVER`
        while it takes them
    failures : how often it took none, by kind
    """

    said: str = ""
    said_at: float = NEVER
    accepted_at: float = NEVER
    failing_since: float = NEVER
    failures: Mapping[str, int] = field(default_factory=dict)

    def failing_s(self, now: float) -> float:
        """How long it has taken nothing that was offered to it, in seconds."""
        return max(0.0, now - self.failing_since) if self.failing_since else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderContact:
    """What one sender did at the port. Times are UTC seconds.

    Attributes
    ----------
    came_at : when its last association was let in, or was released
    refused : how many of its associations or connections were refused
    refused_why : why the last one was
    not_stored : how many of its instances were not taken
    not_stored_why : why the last one was not
    """

    came_at: float = NEVER
    refused: int = 0
    refused_at: float = NEVER
    refused_why: str = ""
    not_stored: int = 0
    not_stored_at: float = NEVER
    not_stored_why: str = ""

    @property
    def last_at(self) -> float:
        """When it was last heard of."""
        return max(self.came_at, self.refused_at, self.not_stored_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorFigures:
    """All that came to the port.

    Attributes
    ----------
    senders : by AE title and address; the first ones were heard of longest ago
    stored, not_stored : instances
    refused : associations and connections by the reason
    """

    senders: Mapping[str, SenderContact] = field(default_factory=dict)
    stored: int = 0
    not_stored: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)


class DestinationContacts:
    """The engine's file; safe to share between couriers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known = read_destinations(path)

    def note(
        self, destination: str, failure: str, said: str, at: float, *, is_down: bool = True
    ) -> None:
        """Note an answer; ``failure`` is empty if the destination took the file.

        Parameters
        ----------
        is_down : the failure is the destination's, and not that of one file
        """
        with self._lock:
            before = self._known.get(destination, DestinationContact())
            failures = dict(before.failures)
            if failure:
                failures[failure] = failures.get(failure, 0) + 1
            since = before.failing_since
            if is_down:
                since = since or at
            self._known[destination] = replace(
                before,
                said=_words(said),
                said_at=at,
                accepted_at=before.accepted_at if failure else at,
                failing_since=since if failure else NEVER,
                failures=failures,
            )
            contents = {name: asdict(each) for name, each in self._known.items()}
            write_notice(self._path, contents, time.time())


class SenderContacts:
    """What the receiver counts; `run` writes it every few seconds. Safe to share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._senders: dict[str, SenderContact] = {}
        self._stored = self._not_stored = 0
        self._refused: Counter[str] = Counter()
        self._is_news = False

    def go_on_with(self, found: DoorFigures) -> None:
        """Take up the figures of the last run; called before the port is open."""
        self._senders = dict(found.senders)
        self._stored, self._not_stored = found.stored, found.not_stored
        self._refused = Counter(found.refused)

    def came(self, sender: str) -> None:
        """An association of this sender was let in, or was released."""
        self._change(sender, came_at=time.time())

    def refused(self, sender: str, reason: str, why: str) -> None:
        """An association or a connection was refused; ``reason`` is one of a few words."""
        with self._lock:
            self._refused[reason] += 1
            count = self._senders.get(_words(sender), SenderContact()).refused + 1
            self._change_locked(
                sender, refused=count, refused_at=time.time(), refused_why=_words(why)
            )

    def stored(self) -> None:
        """An instance was stored."""
        with self._lock:
            self._stored += 1
            self._is_news = True

    def not_stored(self, sender: str, why: str) -> None:
        """An instance of this sender was not taken."""
        with self._lock:
            self._not_stored += 1
            count = self._senders.get(_words(sender), SenderContact()).not_stored + 1
            self._change_locked(
                sender, not_stored=count, not_stored_at=time.time(), not_stored_why=_words(why)
            )

    def _change(self, sender: str, **values: Any) -> None:
        with self._lock:
            self._change_locked(sender, **values)

    def _change_locked(self, sender: str, **values: Any) -> None:
        name = _words(sender)
        before = self._senders.pop(name, SenderContact())
        self._senders[name] = replace(before, **values)
        if len(self._senders) > MOST_SENDERS:
            strangers = (key for key, each in self._senders.items() if not each.came_at)
            del self._senders[next(strangers, next(iter(self._senders)))]
        self._is_news = True

    def write(self, path: Path) -> None:
        """Write the file if anything is new."""
        with self._lock:
            if not self._is_news:
                return
            figures = DoorFigures(
                senders=dict(self._senders),
                stored=self._stored,
                not_stored=self._not_stored,
                refused=dict(self._refused),
            )
            self._is_news = False
        write_notice(path, asdict(figures), time.time())

    def run(self, path: Path, stopping: threading.Event) -> None:
        """Write every few seconds until the node stops."""
        while not stopping.wait(WRITE_EVERY_S):
            self.write(path)
        self.write(path)


def read_destinations(path: Path) -> dict[str, DestinationContact]:
    """What the destinations said last, by their names; none if there is no file to read."""
    found = read_notice(path, time.time(), math.inf)
    try:
        return {name: _destination(each) for name, each in (found or {}).items()}
    except UNREADABLE:
        return {}


def read_senders(path: Path) -> DoorFigures:
    """What came to the port; nothing if there is no file to read."""
    found = read_notice(path, time.time(), math.inf)
    if found is None:
        return DoorFigures()
    try:
        return DoorFigures(
            senders={name: _sender(each) for name, each in found["senders"].items()},
            stored=int(found["stored"]),
            not_stored=int(found["not_stored"]),
            refused=_counts(found["refused"]),
        )
    except UNREADABLE:
        return DoorFigures()


def _destination(each: Mapping[str, Any]) -> DestinationContact:
    return DestinationContact(
        said=str(each["said"]),
        said_at=float(each["said_at"]),
        accepted_at=float(each["accepted_at"]),
        failing_since=float(each["failing_since"]),
        failures=_counts(each["failures"]),
    )


def _sender(each: Mapping[str, Any]) -> SenderContact:
    return SenderContact(
        came_at=float(each["came_at"]),
        refused=int(each["refused"]),
        refused_at=float(each["refused_at"]),
        refused_why=str(each["refused_why"]),
        not_stored=int(each["not_stored"]),
        not_stored_at=float(each["not_stored_at"]),
        not_stored_why=str(each["not_stored_why"]),
    )


def _counts(found: Mapping[str, Any]) -> dict[str, int]:
    return {name: int(count) for name, count in found.items()}


def _words(text: str) -> str:
    """Words of others on one line, not too long."""
    return one_line(text)[:LONGEST_WORDS]
