"""Opens the judge of a bundle, once."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from limn.segment.bundle.bundle import Bundle
from limn.segment.judge.quality import Judge


def judge_of(bundle: Bundle) -> Judge | None:
    """The judge of a verified bundle; None if it has none, or fewer folds than those judged.

    Raises
    ------
    BundleUnfit
        If the file is no judge.
    """
    if bundle.judge is None:
        return None
    judge = _read(bundle.folder / bundle.judge, bundle.sha256)
    return judge if judge.about.get("folds") == len(bundle.folds) else None


@lru_cache(maxsize=4)
def _read(path: Path, sha256: str) -> Judge:
    """The judge of a bundle with this hash."""
    return Judge.read(path)
