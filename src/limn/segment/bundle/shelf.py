"""The folder of installed bundles: list, install, pack; nothing is overwritten."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from limn.domain.errors import BundleUnfit
from limn.domain.shipped import MANIFEST
from limn.segment.bundle.archive import pack, unpack
from limn.segment.bundle.bundle import Bundle, glance, open_bundle

INCOMING = ".incoming-"
# Age at which an unfinished import is removed; none takes so long.
ABANDONED_S = 24 * 3600.0


def bundles(shelf: Path) -> Iterator[Bundle | BundleUnfit]:
    """Every installed bundle, unverified; for a folder that is no bundle its error."""
    for folder in folders(shelf):
        try:
            yield glance(folder)
        except BundleUnfit as error:
            yield error


def folders(shelf: Path) -> list[Path]:
    """Every folder on the shelf, bundle or not.

    Raises
    ------
    BundleUnfit
        If the shelf can't be read.
    """
    try:
        if not shelf.is_dir():
            return []
        found = [path for path in shelf.iterdir() if path.is_dir()]
    except OSError as error:
        msg = f"{shelf}: {error.strerror}; give a folder that this account can read: --models-dir"
        raise BundleUnfit(msg) from error
    return sorted(path for path in found if not path.name.startswith("."))


def find(shelf: Path, name: str, others: Mapping[str, Path]) -> Path:
    """The folder of a bundle, by its path, its name on the shelf, or its name in ``others``."""
    given = Path(name)
    if given.is_dir():
        return given
    if name in others and not (shelf / name).is_dir():
        return others[name]
    if (shelf / name).is_dir() and PurePosixPath(name).name == name:
        return shelf / name
    msg = f"no bundle {name} in {shelf}, nor a folder of that name; see 'limn models list'"
    raise BundleUnfit(msg)


def install(source: Path, shelf: Path) -> Path:
    """Verify a bundle, folder or zip, and copy it to the shelf, whole or not at all.

    Raises
    ------
    BundleUnfit
        If the bundle is not sound, or other weights are installed under its name and version.
    """
    if source.is_dir():
        return _install_folder(source, shelf)
    with opened(source) as folder:
        found = [path.parent for path in folder.rglob(MANIFEST)]
        if len(found) != 1:
            msg = f"{source} holds {len(found)} bundles, one expected"
            raise BundleUnfit(msg)
        return _install_folder(found[0], shelf)


def _install_folder(source: Path, shelf: Path) -> Path:
    bundle = open_bundle(source)
    target = place(shelf, bundle.label)
    if target.exists():
        return _same_bundle(bundle, target)
    try:
        with incoming(shelf) as copy:
            for name in (*bundle.files, MANIFEST):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, copy / name)
            if open_bundle(copy).sha256 != bundle.sha256:
                msg = f"{source} changed while it was copied; install it again"
                raise BundleUnfit(msg)
            put(copy, target)
    except OSError as error:
        msg = f"{target}: {error.strerror or error}"
        raise BundleUnfit(msg) from error
    return target


def _same_bundle(bundle: Bundle, target: Path) -> Path:
    installed = open_bundle(target)
    if installed.sha256 != bundle.sha256:
        msg = (
            f"{target} holds another bundle of that name and version (sha256 "
            f"{installed.sha256[:12]}…, here {bundle.sha256[:12]}…); nothing was changed. Move it "
            "away, or give this one another version"
        )
        raise BundleUnfit(msg)
    return target


def place(shelf: Path, label: str) -> Path:
    """The folder for a bundle of this name and version."""
    if not label or label.startswith(".") or PurePosixPath(label.replace("\\", "/")).name != label:
        msg = f"{label!r} can't be the name of a folder"
        raise BundleUnfit(msg)
    return shelf / label


@contextlib.contextmanager
def incoming(shelf: Path) -> Iterator[Path]:
    """A temporary folder beside the bundles, on the same disk.

    Folders that killed commands left behind are removed once they are a day old.
    """
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        for left in shelf.glob(f"{INCOMING}*"):
            if time.time() - left.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=INCOMING, dir=shelf))
    except OSError as error:
        msg = f"{shelf}: {error.strerror}; give a folder that can be written: --models-dir"
        raise BundleUnfit(msg) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put(copy: Path, target: Path) -> None:
    """Rename a finished copy to its name, once all of it is on disk."""
    for path in copy.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    copy.chmod(0o755)
    try:
        copy.rename(target)
    except OSError as error:
        msg = f"{target} appeared meanwhile; nothing was changed"
        raise BundleUnfit(msg) from error


def pack_bundle(folder: Path, archive: Path) -> Bundle:
    """Pack a verified bundle as one zip; the same bundle gives the same bytes."""
    bundle = open_bundle(folder)
    if archive.exists():
        msg = f"{archive} exists; nothing was written. Move it away or give another name: -o"
        raise BundleUnfit(msg)
    pack(folder, (*bundle.files, MANIFEST), bundle.label, archive)
    return bundle


@contextlib.contextmanager
def opened(source: Path, names: tuple[str, ...] = ("*",)) -> Iterator[Path]:
    """A folder as it is, or a zip unpacked to a temporary folder: only files whose names match."""
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        msg = f"{source} is neither a folder nor a zip"
        raise BundleUnfit(msg)
    with tempfile.TemporaryDirectory(prefix="limn-models-") as folder:
        unpack(
            source,
            Path(folder),
            lambda path: any(path.match(name) for name in names),
        )
        yield Path(folder)
