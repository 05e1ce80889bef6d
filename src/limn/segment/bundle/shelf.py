"""The folder where installed bundles stand: listed, added to, packed; nothing is overwritten."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from limn.domain.errors import BundleUnfit
from limn.segment.bundle.archive import pack, unpack
from limn.segment.bundle.bundle import MANIFEST, Bundle, glance, open_bundle

ENVIRONMENT = "LIMN_MODELS"
HOME = Path(".local") / "share" / "limn" / "models"
EMBEDDED_BUNDLE = Path(__file__).parents[4] / "models" / "phantom-6"


INCOMING = ".incoming-"
# No import takes so long.
LEFT_S = 24 * 3600.0


def bundles(shelf: Path) -> Iterator[Bundle | BundleUnfit]:
    """What stands on the shelf, unverified; a folder that is no bundle comes as its fault."""
    for folder in folders(shelf):
        try:
            yield glance(folder)
        except BundleUnfit as error:
            yield error


def folders(shelf: Path) -> list[Path]:
    """What stands on the shelf, bundle or not.

    Raises
    ------
    BundleUnfit
        If it can't be looked at.
    """
    try:
        if not shelf.is_dir():
            return []
        standing = [path for path in shelf.iterdir() if path.is_dir()]
    except OSError as error:
        msg = f"{shelf}: {error.strerror}; give a folder that this account can read: --models-dir"
        raise BundleUnfit(msg) from error
    return sorted(path for path in standing if not path.name.startswith("."))


def find(shelf: Path, name: str, others: Mapping[str, Path]) -> Path:
    """The folder of a bundle, by its place, by its name on the shelf, or among the others."""
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
    """Verify a bundle, folder or zip, and put a copy of it on the shelf; all of it or nothing.

    Raises
    ------
    BundleUnfit
        If it is no sound bundle, or other weights stand there under its name and version.
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
        return _already(bundle, target)
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


def _already(bundle: Bundle, target: Path) -> Path:
    standing = open_bundle(target)
    if standing.sha256 != bundle.sha256:
        msg = (
            f"{target} holds another bundle of that name and version (sha256 "
            f"{standing.sha256[:12]}…, here {bundle.sha256[:12]}…); nothing was changed. Move it "
            "away, or give this one another version"
        )
        raise BundleUnfit(msg)
    return target


def place(shelf: Path, label: str) -> Path:
    """Where a bundle of this name and version stands."""
    if not label or label.startswith(".") or PurePosixPath(label.replace("\\", "/")).name != label:
        msg = f"{label!r} is no name for a folder"
        raise BundleUnfit(msg)
    return shelf / label


@contextlib.contextmanager
def incoming(shelf: Path) -> Iterator[Path]:
    """A folder beside the bundles, on their disk, that is gone afterwards.

    Those that killed commands left are removed once they are a day old.
    """
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        for left in shelf.glob(f"{INCOMING}*"):
            if time.time() - left.stat().st_mtime > LEFT_S:
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
    """Let a finished copy appear under its name at once, on disk before it does."""
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
    """One zip of a verified bundle; the same bundle gives the same bytes."""
    bundle = open_bundle(folder)
    if archive.exists():
        msg = f"{archive} exists; nothing was written. Move it away or give another name: -o"
        raise BundleUnfit(msg)
    pack(folder, (*bundle.files, MANIFEST), bundle.label, archive)
    return bundle


@contextlib.contextmanager
def opened(source: Path, names: tuple[str, ...] = ("*",)) -> Iterator[Path]:
    """A folder as it is, a zip unpacked: only files whose names match."""
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


def models_dir(given: Path | None) -> Path:
    """Where bundles are installed: as told, else by the environment, else the user's own."""
    if given is not None:
        return given
    told = os.environ.get(ENVIRONMENT)
    return Path(told) if told else Path.home() / HOME
