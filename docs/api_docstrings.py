"""Shows limn's docstrings on the site: of `name : text` the text is a description, and no type.

A Griffe extension, which docs/site.yml names. Griffe itself takes the text for a type.
"""

from __future__ import annotations

import re

import griffe

_SECTION = re.compile(
    r"^( *)(Parameters|Attributes)\n *-{3,}\n(.*?)(?=^ *\w+\n *-{3,}\n|\Z)", re.M | re.S
)
_ENTRY = re.compile(r"^(\w[\w, ]*) : ", re.M)


class DescribedNames(griffe.Extension):
    """Moves each text behind a colon to the line below its name."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Rewrite one docstring before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = _SECTION.sub(_described, obj.docstring.value)


def _described(section: re.Match[str]) -> str:
    return _ENTRY.sub(r"\1\n    ", section[0])
