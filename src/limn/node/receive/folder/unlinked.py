"""Lists and reads the files below a folder and follows no link on the way to them.

Every folder is opened relative to the one above it and no link is opened (openat, O_NOFOLLOW), so
that nobody can put a link in the place of a folder between a look and a read. Windows has no such
calls: there a path is resolved and compared before it is opened.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from limn.node.receive.folder.taken_files import FileState

# Each level of folders takes a descriptor while it is listed.
MAX_DEPTH = 64
# Of a file that is copied.
PIECE_BYTES = 2**22
_BY_DESCRIPTOR = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
_CLOSE = getattr(os, "O_CLOEXEC", 0)
_TO_LIST = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | _CLOSE
# With O_PATH a folder that may be entered but not listed can be passed through.
_TO_PASS = getattr(os, "O_PATH", os.O_RDONLY) | (_TO_LIST & ~os.O_RDONLY)
_TO_READ = os.O_RDONLY | _CLOSE
for _name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
    _TO_READ |= getattr(os, _name, 0)


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file, or what is not to be read.

    Attributes
    ----------
    why_left : why it is left alone; empty for a regular file
    """

    path: str
    state: FileState
    why_left: str = ""


class UnlinkedFolder:
    """A folder and what lies below it.

    Links in the folder's own path are followed once, here: an administrator may have made them. A
    link that takes a folder's place later is not.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._real = folder.resolve()
        except (OSError, RuntimeError):
            self._real = folder.absolute()

    def check(self) -> None:
        """Raise if it can't be listed now.

        Raises
        ------
        OSError
            As the system gives it; ELOOP if a link has taken its place.
        """
        try:
            same = self._folder.resolve() == self._real
        except RuntimeError:
            # Links in a circle.
            same = False
        if not same:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        with ExitStack() as opened:
            if _BY_DESCRIPTOR:
                self._open(opened, (), _TO_LIST)
            else:
                os.scandir(self._folder).close()

    def files(self) -> Iterator[FoundFile]:
        """The files below it, in no order; what can't be listed is passed over."""
        if not _BY_DESCRIPTOR:
            yield from self._files_by_path(str(self._folder))
            return
        with ExitStack() as opened:
            try:
                top = self._open(opened, (), _TO_LIST)
            except OSError:
                return
            yield from _files_in(top, str(self._folder), 0)

    def files_of(self, folder: str, *, deep: bool = False) -> Iterator[FoundFile]:
        """The files of one folder, which is this one or lies below it.

        Parameters
        ----------
        folder : its path, as `files` gives it
        deep : also of the folders below it

        Raises
        ------
        OSError
            At the first file, if it can't be opened or has become a link.
        """
        if not _BY_DESCRIPTOR:
            os.scandir(folder).close()
            if not is_within(folder, self._real):
                raise OSError(errno.ELOOP, "it leads out of the folder")
            yield from self._files_by_path(folder, deep=deep)
            return
        folders = Path(folder).relative_to(self._folder).parts
        with ExitStack() as opened:
            at = self._open(opened, folders, _TO_LIST)
            yield from _files_in(at, folder, len(folders), deep=deep)

    def read(self, path: str, size: int, modified_ns: int) -> bytes:
        """Read a file that `files` found.

        Raises
        ------
        OSError
            If it, or a folder above it, has become a link, or it is no regular file of this size
            and time any more.
        """
        with self._regular(path, size, modified_ns) as file:
            return _whole(file, size)

    def copy(self, path: str, state: FileState, to: Path) -> None:
        """Copy a file that `files` found, piece by piece.

        Raises
        ------
        OSError
            As `read`; and if the copy can't be written.
        """
        copied = 0
        with self._regular(path, state.size, state.modified_ns) as file, to.open("xb") as copy:
            while piece := file.read(PIECE_BYTES):
                copy.write(piece)
                copied += len(piece)
        if copied != state.size:
            raise OSError(errno.EAGAIN, "it changed while it was read")

    @contextmanager
    def _regular(self, path: str, size: int, modified_ns: int) -> Iterator[BinaryIO]:
        """Open a file that `files` found; as `open_regular`."""
        if not _BY_DESCRIPTOR:
            if not is_within(os.path.dirname(path), self._real):  # noqa: PTH120
                raise OSError(errno.ELOOP, "it leads out of the folder")
            with open_regular(path, size, modified_ns) as file:
                yield file
            return
        *folders, name = Path(path).relative_to(self._folder).parts
        with ExitStack() as opened:
            at = self._open(opened, folders, _TO_PASS)
            yield opened.enter_context(open_regular(name, size, modified_ns, at))

    def _open(self, opened: ExitStack, folders: tuple[str, ...] | list[str], last: int) -> int:
        """Open the folder, or one below it, with the flags ``last``; a descriptor."""
        *above, name = (*self._real.parts[1:], *folders) or (".",)
        at = _opened(opened, self._real.anchor, _TO_PASS, None)
        # Without O_PATH a folder above the watched one may not be readable, so that one is opened
        # by its path.
        if not hasattr(os, "O_PATH"):
            above = list(folders[:-1])
            name = folders[-1] if folders else "."
            at = _opened(opened, str(self._real), _TO_LIST, None)
        for folder in above:
            at = _opened(opened, folder, _TO_PASS, at)
        return _opened(opened, name, last, at)

    def _files_by_path(self, top: str, *, deep: bool = True) -> Iterator[FoundFile]:
        refused: list[OSError] = []
        for root, folders, names in os.walk(top, onerror=refused.append):
            if not deep:
                folders.clear()
            # Not is_symlink alone: a Windows junction is no link, and os.walk enters it.
            for name in list(folders):
                path = os.path.join(root, name)  # noqa: PTH118
                if os.path.islink(path) or not is_within(path, self._real):  # noqa: PTH114
                    folders.remove(name)
                    yield FoundFile(path, FileState(0, 0), "a link to a folder")
            for name in names:
                path = os.path.join(root, name)  # noqa: PTH118
                try:
                    yield _found(path, Path(path).lstat())
                except OSError:
                    continue
        for error in refused:
            if not isinstance(error, FileNotFoundError):
                yield FoundFile(str(error.filename), FileState(0, 0), not_listed(error))


def _opened(opened: ExitStack, name: str, flags: int, at: int | None) -> int:
    descriptor = os.open(name, flags, dir_fd=at)
    opened.callback(os.close, descriptor)
    return descriptor


def _files_in(folder: int, path: str, depth: int, *, deep: bool = True) -> Iterator[FoundFile]:
    try:
        names = os.listdir(folder)
    except OSError as error:
        yield FoundFile(path, FileState(0, 0), not_listed(error))
        return
    for name in names:
        inside = os.path.join(path, name)  # noqa: PTH118
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                to_folder = stat.S_ISLNK(found.st_mode) and _leads_to_a_folder(name, folder)
                yield _found(inside, found, "a link to a folder" if to_folder else "a link")
                continue
            if not deep:
                continue
            if depth >= MAX_DEPTH:
                yield FoundFile(inside, FileState(0, 0), f"more than {MAX_DEPTH} folders deep")
                continue
            descriptor = os.open(name, _TO_LIST, dir_fd=folder)
        except FileNotFoundError:
            # It was there a moment ago.
            continue
        except OSError as error:
            yield FoundFile(inside, FileState(0, 0), not_listed(error))
            continue
        try:
            yield from _files_in(descriptor, inside, depth + 1)
        finally:
            os.close(descriptor)


def not_listed(error: OSError) -> str:
    """Why a folder is left alone that can't be listed."""
    return f"limn can't look into it ({error.strerror}); let the user of limn read it"


def _leads_to_a_folder(name: str, folder: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder).st_mode)
    except OSError:
        return False


def _found(path: str, found: os.stat_result, link: str = "a link") -> FoundFile:
    why = ""
    if stat.S_ISLNK(found.st_mode):
        why = link
    elif not stat.S_ISREG(found.st_mode):
        why = "no regular file"
    state = FileState(found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return FoundFile(path, state, why)


def is_within(path: str, real: Path) -> bool:
    """Whether a path lies in a resolved folder after every link is followed."""
    try:
        return Path(path).resolve().is_relative_to(real)
    except (OSError, RuntimeError):
        return False


@contextmanager
def open_regular(
    path: str, size: int, modified_ns: int, folder: int | None = None
) -> Iterator[BinaryIO]:
    """Open a file if it is still a regular one of this size and time; never waits for a pipe.

    Parameters
    ----------
    folder : descriptor of the folder that ``path`` is relative to

    Raises
    ------
    OSError
        If it has become something else, or has changed.
    """
    with open(path, "rb", opener=lambda name, _: os.open(name, _TO_READ, dir_fd=folder)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "no regular file any more")
        if (found.st_size, found.st_mtime_ns) != (size, modified_ns):
            raise OSError(errno.EAGAIN, "it has changed since it was found")
        yield file
        after = os.fstat(file.fileno())
    # Another program may have written while limn read: the bytes are of no one moment then. The
    # time of the status counts too, because a copy may set the other one back.
    if _written(after) != _written(found):
        raise OSError(errno.EAGAIN, "it changed while it was read")


def _written(state: os.stat_result) -> tuple[int, int, int]:
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _whole(file: BinaryIO, size: int) -> bytes:
    contents = file.read(size + 1)
    if len(contents) != size:
        raise OSError(errno.EAGAIN, "it changed while it was read")
    return contents
