"""A small file by which one process shows others what is the case now; after a crash it is stale.

It is replaced as a whole and not durably. Who reads it believes it for a while only.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from limn.domain.files import OWNER_ONLY_FILE


def write_notice(path: Path, contents: Any, now: float) -> None:
    """Replace the file; errors are ignored.

    Parameters
    ----------
    now : UTC seconds
    """
    part = path.with_name(f".{path.name}.part")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    with suppress(OSError):
        text = json.dumps({"written_at": now, "contents": contents})
        part.unlink(missing_ok=True)
        with open(part, "wb", opener=lambda name, _: os.open(name, flags, OWNER_ONLY_FILE)) as file:
            file.write(text.encode())
        part.replace(path)


def read_notice(path: Path, now: float, believed_s: float) -> Any:
    """What the file says; None if there is none, it is damaged, or older than ``believed_s``."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        fresh = abs(now - float(found["written_at"])) <= believed_s
        return found["contents"] if fresh else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
