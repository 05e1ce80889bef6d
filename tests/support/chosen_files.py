"""Which files of tests a run must import: those that may have a test that ``-m`` chooses.

To import all of them, with torch, nnunetv2 and every peer's library, takes a process twenty seconds
of a core, and a run has five processes.
"""

import re
from collections.abc import Collection, Iterator
from functools import cache
from itertools import chain, combinations
from pathlib import Path

from _pytest.mark.expression import Expression

MARKS = ("node", "peer", "trains", "slow", "soak")
_MARK = re.compile(rf"\bmark\.({'|'.join(MARKS)})\b")
# With its further lines, which are indented or close it.
_OF_ALL = re.compile(r"^pytestmark = .*(?:\n[ \])].*)*", re.MULTILINE)


@cache
def marks_in(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """The marks that every test of a file has, and those that any of them has, by its text."""
    text = path.read_text(encoding="utf-8")
    of_all = _OF_ALL.search(text)
    every = _MARK.findall(of_all[0]) if of_all else ()
    return frozenset(every), frozenset(_MARK.findall(text))


def may_be_chosen(expression: str, path: Path, also: Collection[str] = ()) -> bool:
    """Whether a file may have a test for which the expression of ``-m`` is true.

    Parameters
    ----------
    also : marks that every test of the file gets from elsewhere
    """
    named = set(re.findall(r"\w+", expression)) - {"and", "or", "not"}
    if not expression or named - set(MARKS):
        # What else is named may be anywhere.
        return True
    every, any_of_them = marks_in(path)
    chosen = Expression.compile(expression)
    sure = every | set(also)
    return any(
        chosen.evaluate(lambda name, marks=sure | set(more), **_: name in marks)
        for more in _subsets(any_of_them - sure)
    )


def _subsets(marks: Collection[str]) -> Iterator[tuple[str, ...]]:
    marks = sorted(marks)
    return chain.from_iterable(combinations(marks, n) for n in range(len(marks) + 1))
