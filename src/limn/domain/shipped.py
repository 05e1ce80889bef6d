"""Finds the files that come with limn, and bundles by their names."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# Where a wheel has them; pyproject.toml says which.
WITHIN = "shipped"
CHECKOUT = Path(__file__).parents[3]
# Of every bundle, see `limn.segment.bundle.bundle`.
MANIFEST = "bundle.toml"
# Names the folder of installed bundles.
ENVIRONMENT = "LIMN_MODELS"
HOME = Path(".local") / "share" / "limn" / "models"


def shipped(name: str) -> Path:
    """A file or folder by its path in the repository, such as "config/node.toml"."""
    within = PACKAGE / WITHIN / name
    return within if within.exists() else CHECKOUT / name


EMBEDDED_BUNDLE = shipped("models/phantom-7")


def models_dir(given: Path | None = None) -> Path:
    """The folder of installed bundles: the given one, $LIMN_MODELS, or one in the user's home."""
    if given is not None:
        return given
    named = os.environ.get(ENVIRONMENT)
    return Path(named) if named else Path.home() / HOME


def bundle_named(text: str) -> Path:
    """A bundle's folder, by its path or by its name among the installed and the embedded ones.

    What is neither stays a path, so that its reader says that nothing is there.
    """
    given = Path(text)
    if given.name == text and not given.exists():
        if text == EMBEDDED_BUNDLE.name:
            return EMBEDDED_BUNDLE
        with suppress(OSError):
            if (models_dir() / text / MANIFEST).is_file():
                return models_dir() / text
    return given
