"""Writes a site's config from the example that comes with limn, with the answers of a person."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from limn.domain.errors import ConfigWrong
from limn.domain.files import OWNER_ONLY_FILE, write_durably
from limn.domain.shipped import EMBEDDED_BUNDLE, bundle_named, shipped
from limn.node.config import load_config
from limn.node.contour.site_bundle import look_at
from limn.node.store.remedies import address

EXAMPLE = "config/node.toml"


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that a site must decide.

    Attributes
    ----------
    option : of the command, and the name of the answer
    text : what the person reads
    usual : the answer that an empty line gives
    """

    option: str
    text: str
    usual: str


QUESTIONS = (
    Question("bundle", "Which bundle contours: its folder, or its name in `limn models list`", ""),
    Question("data_dir", "Where spool, journal, results and logs go (20 GB or more)", "limn-data"),
    Question(
        "listen", "Address on which scanners call (0.0.0.0: from other machines)", "127.0.0.1"
    ),
    Question("port", "Port on which they call", "11112"),
    Question("ae_title", "AE title by which they call", "LIMN"),
    Question(
        "planning_system",
        "Planning system: AE@HOST:PORT, or a folder for its structure sets",
        "structure-sets",
    ),
)


def init(path: Path, given: dict[str, str | None], ask: Callable[[str], str] | None) -> list[str]:
    """Write a config, and return what to do next.

    Parameters
    ----------
    given : answers by the option's name; what is None is asked, or has its usual answer
    ask : asks a person; None if there is none at the terminal

    Raises
    ------
    ConfigWrong
        If the file exists, or an answer gives no config that `limn check` can read.
    """
    if path.exists():
        msg = f"{path} exists; nothing was changed. Edit it, or give another name"
        raise ConfigWrong(msg)
    answers = {each.option: given.get(each.option) or _answer(each, ask) for each in QUESTIONS}
    text = _config(answers, path.parent)
    if not path.parent.is_dir():
        msg = f"{path.parent} is no folder; make it, or give another file"
        raise ConfigWrong(msg)
    write_durably(path, text.encode())
    path.chmod(OWNER_ONLY_FILE)
    try:
        config = load_config(path)
    except ConfigWrong:
        path.unlink()
        raise
    demonstration = (
        f"{answers['bundle']} is a demonstration and not for animals; it delivers all the same "
        "(model.allow_demo_bundle), and its structure sets say DEMO"
    )
    return [
        f"{path} is written; every key is explained in it",
        f"structure sets go to {address(config.destination[0])}",
        *([demonstration] if config.model.allow_demo_bundle else []),
        f"limn check --config {path}",
        f"limn serve --config {path}",
    ]


def from_terminal() -> Callable[[str], str] | None:
    """Asks at the terminal; None if there is no person at it."""
    return input if sys.stdin.isatty() and sys.stdout.isatty() else None


def _answer(question: Question, ask: Callable[[str], str] | None) -> str:
    """What the person types; the usual answer for an empty line, or without a person."""
    try:
        typed = ask(f"{question.text} [{_usual(question)}]: ").strip() if ask else ""
    except EOFError as error:
        raise ConfigWrong("no answer; nothing was written") from error
    return typed or _usual(question)


def _usual(question: Question) -> str:
    return EMBEDDED_BUNDLE.name if question.option == "bundle" else question.usual


def _config(answers: dict[str, str], folder: Path) -> str:
    """The example with these answers in the place of its own."""
    text = shipped(EXAMPLE).read_text(encoding="utf-8")
    found = bundle_named(answers["bundle"])
    bundle = look_at(found if found.is_absolute() else folder / found)
    for table, key, value in (
        ("", "data_dir", _quoted(answers["data_dir"])),
        ("receive", "ae_title", _quoted(answers["ae_title"])),
        ("receive", "host", _quoted(answers["listen"])),
        ("receive", "port", _number("--port", answers["port"])),
        ("model", "bundle", _quoted(answers["bundle"])),
        ("model", "allow_demo_bundle", "true" if bundle.demonstration else "false"),
    ):
        text = _replaced(text, table, key, value)
    # The example names an organ of the embedded bundle.
    first = _quoted(next(iter(bundle.organs.values())))
    text = text.replace('\nHeart = "Heart"', f"\n{first} = {first}")
    text = text.replace("\nHeart = [", f"\n{first} = [")
    head, _, rest = text.partition("\n[[destination]]\n")
    # What stands commented out below the example's one destination.
    _, _, more = rest.partition("\n\n")
    return f"{head}\n{_destination(answers['planning_system'])}\n{more}"


def _replaced(text: str, table: str, key: str, value: str) -> str:
    """The text with another value of a key in a table; the comment behind it stays."""
    start = text.index(f"\n[{table}]\n") if table else 0
    pattern = re.compile(rf"^({key}\s*=\s*)(\"[^\"]*\"|\S+)", re.MULTILINE)
    found = pattern.search(text, start)
    if found is None:
        msg = f"the example config has no {table}.{key}"
        raise ConfigWrong(msg)
    return text[: found.start(2)] + value + text[found.end(2) :]


def _destination(answer: str) -> str:
    peer = re.fullmatch(r"([^@\\]{1,16})@([^@:/\s]+):(\d{1,5})", answer)
    lines: Sequence[str] = ("[[destination]]", 'name = "planning system"')
    if peer is None and "@" in answer:
        msg = (
            f"planning system {answer}: AE@HOST:PORT with an AE title of 16 characters at most, or "
            "a folder without @, expected"
        )
        raise ConfigWrong(msg)
    if peer is None:
        return "\n".join((*lines, 'kind = "folder"', f"folder = {_quoted(answer)}", ""))
    ae_title, host, port = peer.groups()
    return "\n".join(
        (
            *lines,
            'kind = "dicom"',
            f"ae_title = {_quoted(ae_title)}",
            f"host = {_quoted(host)}",
            f"port = {port}",
            "",
        )
    )


def _number(option: str, text: str) -> str:
    if not text.isdecimal():
        msg = f"{option} {text}: a number expected"
        raise ConfigWrong(msg)
    return text


def _quoted(text: str) -> str:
    """A TOML string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
