"""Which planning systems a person lets the phantoms of a running commissioning go to (D-270).

`limn commission` writes the file before each phantom. The receiver reads it when the phantom's
series is complete. A file that was left behind is soon too old to count.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from limn.node.commissioning import COMMISSIONING, is_commissioning
from limn.node.store.disk.notice import read_notice, write_notice

# A phantom that was sent is complete within this time, or `limn commission` has given it up.
BELIEVED_S = 900.0


def let_phantoms_go_to(path: Path, names: Sequence[str], now: float) -> None:
    """Let the next phantoms go to these destinations too; errors are ignored."""
    write_notice(path, list(names), now)


def destinations_of(
    animal: str, configured: Sequence[str], path: Path, now: float
) -> tuple[str, ...]:
    """The destinations that get an animal's structure sets.

    Those of the config; a phantom that commissions the node goes to the commissioning alone, and to
    those that a person named to it.

    Parameters
    ----------
    animal : PatientID
    path : where `let_phantoms_go_to` wrote
    """
    if not is_commissioning(animal):
        return tuple(configured)
    found = read_notice(path, now, BELIEVED_S)
    named: Collection[str] = found if isinstance(found, list) else ()
    return (COMMISSIONING, *(name for name in configured if name in named))
