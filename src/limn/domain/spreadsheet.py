"""Keeps spreadsheets from taking a text of others, in a CSV that limn writes, for a formula."""

from __future__ import annotations

import re

# A spreadsheet takes a value with such a beginning for a formula, whatever quotes the CSV has. An
# apostrophe in front makes it text. One that begins so already gets one more, so that reading gives
# back what was written.
_FORMULA = re.compile(r"'*(\s*[=+\-@\uff0b\uff0d\uff1d\uff20]|[\t\r\n])")


def neutral(text: str) -> str:
    """The text as a cell that no spreadsheet computes; `plain` gives it back (D-139).

    Line ends become line feeds: csv quotes a line feed but not a carriage return, and a reader ends
    the row at either.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if _FORMULA.match(text) else text


def neutral_cell(value: object) -> object:
    """The value, `neutral` if it is a text; a number, also a negative one, stays a number."""
    return neutral(value) if isinstance(value, str) else value


def plain(text: str) -> str:
    """A cell as it was before `neutral`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
