"""Reads pickles from unknown sources and runs no code in them.

A pickle is a program: it names callables and has them called. nnU-Net v1 keeps its plans as a
pickle, and every checkpoint is one. Plans are read by an unpickler that knows numbers, texts,
containers and NumPy arrays. It builds the arrays itself, so that no foreign byte reaches NumPy's
own unpickling. torch reads checkpoints with ``weights_only=True``. Every other name is refused.

A few bytes can also name one value twice, that pair twice, and so on: such a value is small in
memory and endless for a function that walks or hashes it. So every operation and copy is counted,
and the result, counted as a tree, is no larger than plans are.
"""

from __future__ import annotations

import contextlib
import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from numpy._core import multiarray

from limn.domain.errors import BundleUnfit

# Plans of a data set of hundreds of scans take some 100 kB.
MAX_PICKLE_BYTES = 256 * 2**20
# Plans of a thousand scans take some 50,000 operations and as many values, six deep.
MAX_OPERATIONS = 1_000_000
MAX_VALUES = 1_000_000
MAX_DEPTH = 100
# Values in a key that is hashed: keys are numbers, texts, or tuples of a few labels.
MAX_KEY_VALUES = 4096
# Where the pieces of an array live, by NumPy version.
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_PLAIN_DTYPE = re.compile(r"[|<>=]?[biufcSU]\d*|O8?")
_BROKEN = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    ImportError, OverflowError, MemoryError, RecursionError, UnicodeError, AssertionError,
)  # fmt: skip


class _Dtype:
    """A NumPy type as a pickle describes it; NumPy gets it once it has been checked."""

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
        """The type itself; objects are refused."""
        if self.spec.lstrip("|<>=").startswith("O"):
            raise pickle.UnpicklingError("an object where numbers were expected")
        return np.dtype(self.spec)


class _Array:
    """An array that the pickle has not completed yet."""

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
    """Stands for the class ``numpy.ndarray``, which pickles name but do not need."""


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
    # An array without numbers may still claim 10**12 empty rows.
    if math.prod(max(1, int(n)) for n in shape) > max(len(raw), 1024):
        msg = f"an array of shape {shape} in {len(raw)} bytes"
        raise pickle.UnpicklingError(msg)
    return np.array(np.frombuffer(raw, dtype.plain).reshape(shape, order=order))


def _bytes(content: object = b"", *_: object) -> bytes:
    """Bytes from bytes or text; a number would ask for that many bytes."""
    if isinstance(content, str):
        return content.encode("latin1")
    if not isinstance(content, (bytes, bytearray)):
        raise pickle.UnpicklingError("bytes of something else")
    return bytes(content)


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """Bytes as protocol 2 writes them; no other codec is allowed."""
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


class _Reader(pickle._Unpickler):
    """Allows only the classes that plans are made of, and counts the operations.

    It is Python's own unpickler, because the one in C can't be stopped in the middle.
    """

    stack: list[Any]
    read: Callable[[int], bytes]
    append: Callable[[Any], None]
    load_build: Callable[[], None]

    def __init__(self, raw: bytes) -> None:
        super().__init__(io.BytesIO(raw))
        self._operations = 0
        self._copied = 0
        # Sizes of the hashable containers by id; keeping the value keeps the id unique.
        self._sizes: dict[int, tuple[object, int]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The known class or function of a name; any other name is refused."""
        try:
            return _KNOWN[module, name]
        except KeyError:
            msg = f"it asks for {module}.{name}"
            raise pickle.UnpicklingError(msg) from None

    def count(self) -> None:
        """Count one operation."""
        self._operations += 1
        if self._operations > MAX_OPERATIONS:
            msg = f"it has more than {MAX_OPERATIONS} operations"
            raise pickle.UnpicklingError(msg)

    def charge(self, arguments: object) -> None:
        """Count the bytes of a call's arguments, which it copies."""
        given = arguments if isinstance(arguments, tuple) else ()
        for each in given:
            if isinstance(each, (str, bytes, bytearray)):
                self._copied += len(each)
            elif isinstance(each, (list, tuple, dict, set, frozenset)):
                self._copied += 8 * len(each)
        if self._copied > MAX_PICKLE_BYTES:
            msg = f"it copies more than {MAX_PICKLE_BYTES} bytes"
            raise pickle.UnpicklingError(msg)

    def weigh(self) -> None:
        """Compare the size of the last value with the limit for hashing."""
        made = self.stack[-1] if self.stack else None
        if not isinstance(made, (tuple, frozenset)) or id(made) in self._sizes:
            return
        size = 1 + sum(self._sizes[id(v)][1] if id(v) in self._sizes else 1 for v in made)
        if size > MAX_KEY_VALUES:
            msg = f"a tuple of more than {MAX_KEY_VALUES} values"
            raise pickle.UnpicklingError(msg)
        self._sizes[id(made)] = (made, size)

    def read_bytearray(self) -> None:
        """Read the bytes that exist; Python's own method allocates as many as the pickle claims."""
        size = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(size)))

    def build(self) -> None:
        """Set the state of an array or its type; any other object is refused."""
        if not isinstance(self.stack[-2], (_Array, _Dtype)):
            raise pickle.UnpicklingError("state for what has none")
        self.charge(self.stack[-1])
        self.load_build()

    def call(self, load: Callable[[_Reader], None]) -> None:
        """Call one of the known functions."""
        if self.stack[-2] in (list, tuple, set, frozenset) and isinstance(
            next(iter(self.stack[-1]), None), (bytes, bytearray, str)
        ):
            raise pickle.UnpicklingError("a container of single bytes")
        self.charge(self.stack[-1])
        load(self)


# Old classes, extensions, persistent ids and out-of-band buffers, which plans do not have.
_UNWANTED = (
    pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID,
    pickle.BINPERSID, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.NEWOBJ_EX,
)  # fmt: skip


def _counted(code: int, load: Any) -> Any:
    def refused(reader: _Reader) -> None:
        msg = f"operation {bytes([code])!r}"
        raise pickle.UnpicklingError(msg)

    def called(reader: _Reader) -> None:
        reader.call(load)

    def loaded(reader: _Reader) -> None:
        reader.count()
        do(reader)
        reader.weigh()

    do = load
    if bytes([code]) in _UNWANTED:
        do = refused
    elif bytes([code]) in (pickle.REDUCE, pickle.NEWOBJ):
        do = called
    elif bytes([code]) == pickle.BUILD:
        do = _Reader.build
    elif bytes([code]) == pickle.BYTEARRAY8:
        do = _Reader.read_bytearray
    return loaded


_OPERATIONS: Mapping[int, Any] = pickle._Unpickler.dispatch
_Reader.dispatch = {code: _counted(code, load) for code, load in _OPERATIONS.items()}


def read_pickle(path: Path) -> Any:
    """Read numbers, texts, containers and arrays from a pickle.

    Raises
    ------
    BundleUnfit
        If it contains or names anything else; none of it has run.
    """
    try:
        if path.stat().st_size > MAX_PICKLE_BYTES:
            msg = f"{path} has {path.stat().st_size} bytes, plans of some kilobytes expected"
            raise BundleUnfit(msg)
        return _Unwrapper().plain(_Reader(path.read_bytes()).load(), 0)
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise BundleUnfit(msg) from error
    except _BROKEN as error:
        msg = f"{path} is refused and nothing in it was run: {_reason(error)}"
        raise BundleUnfit(msg) from error


class _Unwrapper:
    """Replaces `_Array` by the array itself; shared values stay shared."""

    def __init__(self) -> None:
        # For every container: its replacement, and how many values it has as a tree.
        self._seen: dict[int, tuple[Any, int]] = {}
        self._open: set[int] = set()

    def plain(self, value: Any, depth: int) -> Any:
        """Unwrap a value that lies ``depth`` containers deep."""
        return self._weighed(value, depth)[0]

    def _weighed(self, value: Any, depth: int) -> tuple[Any, int]:
        if isinstance(value, (_Dtype, type)) or value is _NdarrayName:
            raise pickle.UnpicklingError("a type where a value was expected")
        if isinstance(value, np.ndarray):
            return value, 1 + value.size
        if not isinstance(value, (_Array, dict, list, tuple, set, frozenset)):
            return value, 1
        if id(value) in self._seen:
            return self._seen[id(value)]
        if depth > MAX_DEPTH or id(value) in self._open:
            msg = f"values within values, more than {MAX_DEPTH} deep"
            raise pickle.UnpicklingError(msg)
        self._open.add(id(value))
        found = self._walked(value, depth + 1)
        self._open.remove(id(value))
        if found[1] > MAX_VALUES:
            msg = f"more than {MAX_VALUES} values, counted as often as they are named"
            raise pickle.UnpicklingError(msg)
        self._seen[id(value)] = found
        return found

    def _walked(self, value: Any, depth: int) -> tuple[Any, int]:
        if isinstance(value, _Array):
            return self._weighed(value.value, depth)
        if isinstance(value, dict):
            keys = [self._weighed(k, depth) for k in value]
            own = [self._weighed(v, depth) for v in value.values()]
            unwrapped = {k: v for (k, _), (v, _) in zip(keys, own, strict=True)}
            return unwrapped, 1 + sum(size for _, size in (*keys, *own))
        parts = [self._weighed(v, depth) for v in value]
        kind = next(k for k in (list, tuple, set, frozenset) if isinstance(value, k))
        return kind(v for v, _ in parts), 1 + sum(size for _, size in parts)


# A checkpoint also keeps the course of its training, as NumPy scalars.
_CHECKPOINT_EXTRAS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *((multiarray.scalar, f"{module}.scalar") for module in _NUMPY),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint by torch with ``weights_only=True``.

    Raises
    ------
    BundleUnfit
        If it contains or names more than weights and numbers; none of it has run.
    """
    try:
        with (
            contextlib.closing(path.open("rb")) as file,
            torch.serialization.safe_globals(_CHECKPOINT_EXTRAS),
        ):
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        msg = f"{path}: {error.strerror or error}"
        raise BundleUnfit(msg) from error
    except (*_BROKEN, RuntimeError) as error:
        msg = f"{path} is refused and nothing in it was run: {_reason(error)}"
        raise BundleUnfit(msg) from error
    if not isinstance(checkpoint, dict):
        msg = f"{path} is no checkpoint: it holds a {type(checkpoint).__name__}"
        raise BundleUnfit(msg)
    return checkpoint


def weights_in(checkpoint: Mapping[str, Any], key: str, path: Path) -> Mapping[str, torch.Tensor]:
    """The weights that a checkpoint has under a key.

    Raises
    ------
    BundleUnfit
        If they are missing or not all tensors.
    """
    weights = checkpoint.get(key)
    if not isinstance(weights, Mapping) or not all(
        isinstance(tensor, torch.Tensor) for tensor in weights.values()
    ):
        msg = f"{path} holds no {key}"
        raise BundleUnfit(msg)
    return weights


def _reason(error: Exception) -> str:
    """The line of an error that names what the pickle asked for; torch's errors fill pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "GLOBAL" in line]
    return (named or lines or [type(error).__name__])[0]
