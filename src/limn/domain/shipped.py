"""Finds the files that come with limn: within the installed package, or in a checkout around it."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# Where a wheel has them; pyproject.toml says which.
WITHIN = "shipped"
CHECKOUT = Path(__file__).parents[3]


def shipped(name: str) -> Path:
    """A file or folder by its path in the repository, such as "config/node.toml"."""
    within = PACKAGE / WITHIN / name
    return within if within.exists() else CHECKOUT / name
