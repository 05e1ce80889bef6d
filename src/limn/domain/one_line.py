"""Shows text of others, such as a file's name, so that it can't forge a line or move a cursor."""

from __future__ import annotations

import re

_SPACES = "\n\t"
# A byte of a file's name that is no UTF-8, as Python decodes it (PEP 383).
_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF
_LONGEST_NAME_BYTES = 200


def one_line(text: object) -> str:
    r"""The text with each character that can't be shown as an escape, such as ``\n`` or ``\xe4``.

    Bytes of a file's name that are no UTF-8 are escaped too, so the result can always be encoded.
    """
    shown = str(text)
    return shown if shown.isprintable() else "".join(map(_escaped, shown))


def plain_lines(text: str) -> str:
    """The text as `one_line` shows it, but with its line ends and tabs."""
    if text.isprintable():
        return text
    return "".join(letter if letter in _SPACES else _escaped(letter) for letter in text)


def name_from(text: str) -> str:
    """A file name that every file system and every table takes, made from one of others.

    A character that can't be shown becomes ``_``; a name that is too long for an ending is cut.
    """
    name = "".join(letter if letter.isprintable() else "_" for letter in text)
    return name.encode()[:_LONGEST_NAME_BYTES].decode(errors="ignore")


def indented(text: str) -> str:
    """The text as `plain_lines`; each line after the first is indented."""
    return re.sub("\n(?=.)", "\n    ", plain_lines(text))


def _escaped(letter: str) -> str:
    if letter.isprintable():
        return letter
    if _FIRST_BYTE <= ord(letter) <= _LAST_BYTE:
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()
