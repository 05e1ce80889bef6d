"""limn: contours of a mouse's organs in a micro-CT scan, as a DICOM node, a program and a library.

What a script may use is listed in ``__all__`` and described in docs/python.md; every other module
is the program's own and may change. Nothing heavy is imported before it is used. Type checkers read
``__init__.pyi``.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = [
    "Contours",
    "LimnError",
    "Model",
    "Roi",
    "Scan",
    "__version__",
    "contour",
    "one_file",
    "read",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        msg = f"module 'limn' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module("limn.api"), name)


def __dir__() -> list[str]:
    return __all__
