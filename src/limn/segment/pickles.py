"""Reads pickles that strangers wrote, and runs nothing of what they say.

A pickle is a program: it names callables and has them called. nnU-Net v1 keeps its plans as one,
and every checkpoint is one. Plans are read by an unpickler that knows numbers, texts, containers
and NumPy arrays, and builds the arrays itself, so that no foreign byte reaches NumPy's own
unpickling; checkpoints by torch with ``weights_only=True``. Whatever else is named is refused.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from numpy._core import multiarray

from limn.domain.errors import BundleUnfit

# Plans of a data set of hundreds of scans take some 100 kB.
MAX_PICKLE_BYTES = 256 * 2**20
# Where the pieces of an array live, by NumPy version.
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_PLAIN_DTYPE = re.compile(r"[|<>=]?[biufcSU]\d*|O8?")
_BROKEN = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    ImportError, OverflowError, MemoryError, RecursionError, UnicodeError, AssertionError,
)  # fmt: skip


class _Dtype:
    """What a pickle says about a type; NumPy sees it when it has been checked."""

    def __init__(self, spec: object, *_: object) -> None:
        if not isinstance(spec, str) or not _PLAIN_DTYPE.fullmatch(spec):
            msg = f"array type {spec!r}"
            raise pickle.UnpicklingError(msg)
        self.spec = spec

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">") and self.spec[0] not in "<>|=":
            self.spec = state[1] + self.spec

    @property
    def plain(self) -> np.dtype[Any]:
        """The type itself; an array of objects is none."""
        if self.spec.lstrip("|<>=").startswith("O"):
            raise pickle.UnpicklingError("an object where numbers were expected")
        return np.dtype(self.spec)


class _Array:
    """An array in the making."""

    def __init__(self, *_: object) -> None:
        self.value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if isinstance(data, list):
            self.value = data
            return
        raw = data.encode("latin1") if isinstance(data, str) else data
        self.value = _shaped(raw, dtype, shape, "F" if fortran else "C")


class _NdarrayName:
    """Stands for the class ``numpy.ndarray``, which pickles name but need not get."""


def _scalar(dtype: _Dtype, raw: object = b"") -> Any:
    data = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(data, bytes):
        raise pickle.UnpicklingError("an object where a number was expected")
    return np.frombuffer(data, dtype.plain, count=1)[0].item()


def _from_buffer(data: Any, dtype: _Dtype, shape: Any, order: str) -> _Array:
    array = _Array()
    array.value = _shaped(bytes(data), dtype, shape, "F" if order == "F" else "C")
    return array


def _shaped(
    raw: bytes, dtype: _Dtype, shape: tuple[int, ...], order: Literal["C", "F"]
) -> npt.NDArray[Any]:
    return np.array(np.frombuffer(raw, dtype.plain).reshape(shape, order=order))


def _bytes(content: object = b"", *_: object) -> bytes:
    """Bytes of bytes or of text; of a number they would be as many as a stranger likes."""
    if isinstance(content, str):
        return content.encode("latin1")
    if not isinstance(content, (bytes, bytearray)):
        raise pickle.UnpicklingError("bytes of something else")
    return bytes(content)


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes; no other codec is wanted."""
    if encoding not in ("latin1", "latin-1"):
        msg = f"codec {encoding!r}"
        raise pickle.UnpicklingError(msg)
    return text.encode("latin1")


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _latin1,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _NdarrayName,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    **{(module, "_reconstruct"): _Array for module in _NUMPY},
    **{(module, "scalar"): _scalar for module in _NUMPY},
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__")
       for kind in (set, frozenset, tuple, list, dict)},
    **{(module, name): _bytes for module in ("builtins", "__builtin__")
       for name in ("bytes", "bytearray")},
}  # fmt: skip


class _Reader(pickle.Unpickler):
    """Finds only what plans are made of."""

    def find_class(self, module: str, name: str) -> Any:
        """One of the known names, or a refusal that says which name was asked for."""
        try:
            return _KNOWN[module, name]
        except KeyError:
            msg = f"it asks for {module}.{name}"
            raise pickle.UnpicklingError(msg) from None


def read_pickle(path: Path) -> Any:
    """Numbers, texts, containers and arrays of a pickle.

    Raises
    ------
    BundleUnfit
        If it holds or asks for anything else; nothing of it has run.
    """
    try:
        if path.stat().st_size > MAX_PICKLE_BYTES:
            msg = f"{path} has {path.stat().st_size} bytes, plans of some kilobytes expected"
            raise BundleUnfit(msg)
        return _unwrapped(_Reader(io.BytesIO(path.read_bytes())).load(), {})
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise BundleUnfit(msg) from error
    except _BROKEN as error:
        msg = f"{path} is refused and nothing in it was run: {_said(error)}"
        raise BundleUnfit(msg) from error


def _unwrapped(value: Any, seen: dict[int, Any]) -> Any:
    """The same with arrays in place of arrays in the making; what is shared stays shared."""
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, _Array):
        result = _unwrapped(value.value, seen)
    elif isinstance(value, dict):
        result = {_unwrapped(k, seen): _unwrapped(v, seen) for k, v in value.items()}
    elif isinstance(value, list):
        result = [_unwrapped(v, seen) for v in value]
    elif isinstance(value, tuple):
        result = tuple(_unwrapped(v, seen) for v in value)
    elif isinstance(value, (_Dtype, type)):
        raise pickle.UnpicklingError("a type where a value was expected")
    else:
        return value
    seen[id(value)] = result
    return result


# A checkpoint keeps the course of its training, too, in NumPy's numbers.
_CHECKPOINT_EXTRAS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *((multiarray.scalar, f"{module}.scalar") for module in _NUMPY),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, as torch reads it with ``weights_only=True``.

    Raises
    ------
    BundleUnfit
        If it holds or asks for more than weights and numbers; nothing of it has run.
    """
    try:
        with (
            contextlib.closing(path.open("rb")) as file,
            torch.serialization.safe_globals(_CHECKPOINT_EXTRAS),
        ):
            held = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        msg = f"{path}: {error.strerror or error}"
        raise BundleUnfit(msg) from error
    except (*_BROKEN, RuntimeError) as error:
        msg = f"{path} is refused and nothing in it was run: {_said(error)}"
        raise BundleUnfit(msg) from error
    if not isinstance(held, dict):
        msg = f"{path} is no checkpoint: it holds a {type(held).__name__}"
        raise BundleUnfit(msg)
    return held


def _said(error: Exception) -> str:
    """The line of an error that says what was asked for; torch's are pages long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    asked = [line for line in lines if "GLOBAL" in line]
    return (asked or lines or [type(error).__name__])[0]
