"""How long a person must wait after wrong passwords, by name and address; bounded in memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# Wrong passwords that cost no wait: of a name at an address, of an address, of a name anywhere.
FREE = {"pair": 3, "address": 20, "name": 20}
# The wait doubles from one second to this.
LONGEST_S = 300.0
# A name or an address that made no mistake for so long begins anew.
FORGOTTEN_S = 3600.0
MOST_KEPT = 4096

_Key = tuple[str, str, str]


@dataclass(slots=True)
class _Mistakes:
    count: int = 0
    last_s: float = 0.0


class Tries:
    """Counts wrong passwords.

    Where an account has signed in, only its own mistakes there count against it: nobody at another
    address, and no other account, can keep a person out at the time of an animal.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._mistakes: OrderedDict[_Key, _Mistakes] = OrderedDict()
        self._signed_in: OrderedDict[tuple[str, str], None] = OrderedDict()

    def wait_s(self, name: str, address: str) -> float:
        """Seconds until this name may be tried from this address; 0 if it may now."""
        return max((self._wait_of(key) for key in self._keys(name, address)), default=0.0)

    def begin(self, name: str, address: str) -> None:
        """Count a try as a mistake, until it is known to be none."""
        now_s = self._clock()
        for key in self._keys(name, address):
            mistakes = self._mistakes.setdefault(key, _Mistakes())
            if now_s - mistakes.last_s > FORGOTTEN_S:
                mistakes.count = 0
            mistakes.count += 1
            mistakes.last_s = now_s
            self._mistakes.move_to_end(key)
        while len(self._mistakes) > MOST_KEPT:
            self._mistakes.popitem(last=False)

    def succeeded(self, name: str, address: str) -> None:
        """The last try was none: it counts nowhere, and the name's mistakes there are forgotten."""
        for key in self._keys(name, address):
            if (mistakes := self._mistakes.get(key)) is not None:
                mistakes.count -= 1
        self._mistakes.pop(("pair", name, address), None)
        self._signed_in[name, address] = None
        self._signed_in.move_to_end((name, address))
        if len(self._signed_in) > MOST_KEPT:
            self._signed_in.popitem(last=False)

    def _keys(self, name: str, address: str) -> Iterator[_Key]:
        yield "pair", name, address
        if (name, address) not in self._signed_in:
            yield "address", "", address
            yield "name", name, ""

    def _wait_of(self, key: _Key) -> float:
        mistakes = self._mistakes.get(key)
        if mistakes is None or (over := mistakes.count - FREE[key[0]]) < 0:
            return 0.0
        # No power of two beyond the longest wait is computed.
        whole_s = min(LONGEST_S, 2.0 ** min(over, 10))
        return max(0.0, mistakes.last_s + whole_s - self._clock())
