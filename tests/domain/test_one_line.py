"""Text of others on one line."""

import os

import pytest

from limn.domain.one_line import indented, name_from, one_line, plain_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Mäuse 7 [a].dcm", "Mäuse 7 [a].dcm"),
        (os.fsdecode(b"M\xe4use"), r"M\xe4use"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\u202egnp.\u2028", r"\u202egnp.\u2028"),
    ],
)
def test_what_can_not_be_shown_is_escaped(text: str, shown: str) -> None:
    """Everything else stays; the result can always be printed and encoded."""
    assert one_line(text) == shown
    assert one_line(text).encode()


def test_text_of_several_lines_keeps_them() -> None:
    """Other control characters are escaped, also those that some readers take for a line end."""
    assert plain_lines("a\n\tb\x85\x1b") == "a\n\tb\\x85\\x1b"
    assert indented("a\nb\n\nc") == "a\n    b\n\n    c"


def test_a_name_made_from_an_odd_one() -> None:
    """It has no character that a table or a file system refuses, and leaves room for an ending."""
    assert name_from(os.fsdecode(b"M\xe4\nx")) == "M__x"
    assert len(name_from("ä" * 127).encode()) == 200
