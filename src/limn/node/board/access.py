"""Who may ask for what: one table for every path of the board, also for those that come later."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from limn.node.store.disk.board_accounts import Role

METHODS = ("GET", "HEAD", "POST")
SIGN_IN, SIGN_OUT = "/sign-in", "/sign-out"
Need = Literal["nobody", "look", "act", "identity"]

# The first that fits; whatever none fits needs an account, and to act if it is a POST.
_TABLE: tuple[tuple[str, str, Need], ...] = (
    # The page on which a person signs in, what it is made of, and the way out.
    ("GET", re.escape(SIGN_IN), "nobody"),
    ("POST", re.escape(SIGN_IN), "nobody"),
    ("GET", r"/static/[A-Za-z0-9_.-]+", "nobody"),
    ("POST", re.escape(SIGN_OUT), "nobody"),
    # Structure sets, pictures and other forms have the animal's name in them.
    ("GET", r"/[^/]+/file/.*", "identity"),
    ("GET", r"/thumbnail/.*", "identity"),
    # It is asked for by the animal's name.
    ("GET", r"/animal", "identity"),
)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks.

    Attributes
    ----------
    name : of the account; empty where no accounts are asked for, and the person types a name
    address : from which the person asks, as `network_of` gives it
    """

    name: str
    role: Role
    address: str


def need_of(method: str, path: str) -> Need:
    """What a request needs; a path as the router has it, decoded."""
    wanted = "GET" if method == "HEAD" else method
    for each, pattern, need in _TABLE:
        if each == wanted and re.fullmatch(pattern, path, re.DOTALL):
            return need
    return "look" if wanted == "GET" else "act"


def sees_identity(visitor: Visitor, *, hides_animals: bool) -> bool:
    """Whether this person gets files with the animal's name in them (D-246)."""
    return visitor.role == "act" or not hides_animals


def may(visitor: Visitor | None, need: Need, *, hides_animals: bool) -> bool:
    """Whether this person gets what needs this; None is nobody who signed in."""
    if need == "nobody":
        return True
    if visitor is None:
        return False
    if need == "identity":
        return sees_identity(visitor, hides_animals=hides_animals)
    return need == "look" or visitor.role == "act"
