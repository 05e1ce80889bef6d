"""Finds names of animals in texts, and puts what stands for them in their place (D-246)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

# Of a series that comes in, which is no scan yet.
NO_NUMBER = "not numbered yet"
# Of an animal that is in no scan: a slice of another one in the series, say.
OTHER = "(name hidden)"
# As a reason of limn has them: PatientID 'M7', but 'M8' in the series.
_ABOUT_NAMES = re.compile(r"Patient|\banimal\b")
_QUOTE = re.compile(r"['\"]")
_QUOTED = re.compile(r"(?<![\w'\"])(?:'[^'\"]*'|\"[^'\"]*\")(?![\w'\"])")
# No sentence of limn quotes more than two names; with more quotes, a name has some itself.
_MOST_QUOTES = 4
_APOSTROPHE = re.compile(r"(?<=[a-z])'(?=[st]\b)")
_MARK = "\0"
# As a line of the log has it: series ...1.2, animal M7: SOPInstanceUID ...
_ANIMAL_THEN_COLON = re.compile(
    r"(?<!\bthe )(?<!\ban )(?<!\bone )(?<!\beach )(?<!\bthis )(?<!\bother )(?<!\banother )"
    rf"\banimal (?!scan-\d{{5}}|{NO_NUMBER}|{re.escape(OTHER)}|\d+ of \d)[^:]*:(?=\s|$)"
)
# A flag of limn with a name in it, whose spaces became underscores.
_NAME_FLAG = re.compile(r"\banimal-name:\S+")
# A date with or without a time; a time, a decimal or a UID; a word; any other mark.
_TOKEN = re.compile(
    r"(?<!\w)\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d[\d:.]*(?:Z|[+-]\d\d:?\d\d)?)?(?!\w)"
    r"|(?<!\w)\d+(?:[.:,]\d+)+(?!\w)|\w+|[^\w\s]"
)
_WORD = re.compile(r"\w")


@dataclass(frozen=True, slots=True)
class Names:
    """What stands for each name that is known; `of` makes it.

    Attributes
    ----------
    lengths : of the names that begin with a word or mark, the longest first
    own : of the scan that a text is about; go before those that are known
    blind : some names may be unknown, because the journal can't be read
    """

    known: Mapping[str, str]
    lengths: Mapping[str, tuple[int, ...]]
    own: Mapping[str, str] = field(default_factory=dict)
    blind: bool = False

    @staticmethod
    def of(known: Mapping[str, str], *, blind: bool = False) -> Names:
        """From the names and what stands for each."""
        return Names(known, _lengths(known), blind=blind)

    def also(self, own: Mapping[str, str]) -> Names:
        """The same, and a scan's own names before them."""
        return replace(self, own={**self.own, **own}) if own else self

    def stands_for(self, name: str) -> str | None:
        """What stands for a whole name; None if it is not known."""
        found = self.own.get(name)
        return self.known.get(name) if found is None else found

    def out_of(self, text: str) -> str:
        """A text without names.

        Dates, times and numbers stay, and so does a name within a word. A name without a letter
        is taken out of a text that speaks of animals, and of no other.
        """
        if not _WORD.search(text):
            return text
        found = None if _is_number(text) else self.stands_for(text)
        if found is not None:
            return found
        about = _ABOUT_NAMES.search(text) is not None
        if about and self.blind:
            return OTHER
        text = self._unquoted(text) if about else text
        text = self._without(text, numbers=about)
        if not about:
            return text
        text = _NAME_FLAG.sub("animal-name:hidden", text)
        return _ANIMAL_THEN_COLON.sub(f"animal {OTHER}:", text)

    def _unquoted(self, text: str) -> str:
        """A text about animals without what it quotes.

        Where a name has quotes itself, all goes from the first quote to the last.
        """
        marked = _APOSTROPHE.sub(_MARK, text)
        quotes = [found.start() for found in _QUOTE.finditer(marked)]
        if not quotes:
            return text
        if _QUOTE.search(_QUOTED.sub("", marked)) or len(quotes) > _MOST_QUOTES:
            first, last = quotes[0], quotes[-1] if len(quotes) > 1 else len(text)
            return text[:first] + OTHER + text[last + 1 :]

        def shown(found: re.Match[str]) -> str:
            return self.stands_for(found[0][1:-1].replace(_MARK, "'")) or OTHER

        return _QUOTED.sub(shown, marked).replace(_MARK, "'")

    def _without(self, text: str, *, numbers: bool) -> str:
        own = _lengths(self.own)
        parts, at = [], 0
        for token in _TOKEN.finditer(text):
            head, start = token[0], token.start()
            if start < at or (head not in own and head not in self.lengths):
                continue
            lengths = {*own.get(head, ()), *self.lengths.get(head, ())}
            for length in sorted(lengths, reverse=True):
                name, end = text[start : start + length], start + length
                found = self.stands_for(name)
                if found is None or _WORD.match(text, end) or (_is_number(name) and not numbers):
                    continue
                parts += [text[at:start], found]
                at = end
                break
        return "".join((*parts, text[at:])) if parts else text


def _lengths(names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    found: dict[str, set[int]] = {}
    for name in names:
        if head := _TOKEN.match(name):
            found.setdefault(head[0], set()).add(len(name))
    return {head: tuple(sorted(own, reverse=True)) for head, own in found.items()}


def _is_number(name: str) -> bool:
    """Whether it has no letter, as numbers, dates and UIDs have none."""
    return not any(each.isalpha() for each in name)
