"""Types of arguments that several commands have."""

from __future__ import annotations

from pathlib import Path


def bundle(text: str) -> Path:
    """A bundle's folder, by its path or its name."""
    # Imported here: it takes a tenth of a second, and no `--help` needs it.
    from limn.domain.shipped import bundle_named

    return bundle_named(text)
