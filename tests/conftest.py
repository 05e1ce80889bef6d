"""What all tests share: one small mouse, its DICOM series, and the peers that others wrote."""

import atexit
import functools
import itertools
import os
import re
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from limn.dicom.ct import CtIdentity, ct_instances
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Labels, Volume
from limn.domain.shipped import MANIFEST
from limn.phantom.anatomy import conceive
from limn.phantom.scanner import Scanner, scan
from limn.segment.bundle.bundle import write_manifest
from tests.support.chosen_files import MARKS, marks_in, may_be_chosen
from tests.support.node.hurry import hurried
from tests.support.organs import Organ

REPOSITORY = Path(__file__).parents[1]
BUNDLE = REPOSITORY / "models" / "phantom-7"
COLOURS = {
    Organ.HEART: (255, 0, 0),
    Organ.CORD: (255, 255, 0),
    Organ.LUNG_R: (0, 200, 0),
    Organ.LUNG_L: (0, 128, 255),
}


SLOWEST = 25
# Markers of long tests, the longest first.
LONG = ("trains", "node", "slow")
BUDGET_S = 10.0
# Linux's folder in memory, and the room that a run of all tests needs there.
MEMORY, ROOM_BYTES = Path("/dev/shm"), 4 * 2**30  # noqa: S108 - pytest makes its own folder in it


def pytest_configure(config: pytest.Config) -> None:
    """Keep the tests' folders in memory where there is room.

    A node waits for the disk at every slice and at every step of the journal, a few milliseconds
    each time. No test can tell: none cuts the power. PYTEST_DEBUG_TEMPROOT or --basetemp gives
    another place.
    """
    with suppress(OSError):
        if config.option.basetemp is None and shutil.disk_usage(MEMORY).free >= ROOM_BYTES:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--durations-to FILE``: keep the slowest tests of this run."""
    parser.addoption("--durations-to", type=Path, help=f"write the {SLOWEST} slowest tests there")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Write the slowest tests, with setup and teardown, and the machine that they ran on."""
    path = config.getoption("durations_to")
    if path is None:
        return
    seconds: Counter[str] = Counter()
    for report in itertools.chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            seconds[report.nodeid] += report.duration
    import openvino  # noqa: PLC0415

    processor = openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")
    over = sum(each > BUDGET_S for each in seconds.values())
    head = (
        f"# {len(seconds)} tests, {sum(seconds.values()):.0f} s in all, {over} of them over "
        f"{BUDGET_S:.0f} s; {processor}\n"
    )
    rows = (f"{each:7.1f}  {name}\n" for name, each in seconds.most_common(SLOWEST))
    path.write_text(head + "".join(rows), encoding="utf-8")


# Files of more than some 3 s on two cores: `make quick` leaves them out.
SLOW_FILES = [
    "lab/data/test_returned",
    "node/contour/edits/test_watch",
    "node/contour/edits/test_measure",
    "segment/draw/animals/test_size",
    "segment/draw/test_hounsfield",
    "segment/draw/animals/test_choose",
    "phantom/test_cohort",
    "phantom/test_chest_tiles",
    "dicom/test_odd_series",
    "node/contour/test_allocation",
    "node/contour/test_previews",
    "node/deliver/test_destinations",
    "node/operate/test_queue",
    "node/operate/test_backup",
    "node/operate/test_rerun_process",
    "node/host/test_certs",
    "node/receive/folder/test_watched_folder",
    "node/receive/test_breaks",
    "node/receive/images/test_image_watch",
    "node/receive/test_intake",
    "node/receive/test_storage_scp",
    "node/dimse/test_access",
    "node/dimse/test_deadline",
    "node/operate/test_check",
    "node/batch/test_many_folders",
    "node/board/test_siege",
    "node/board/test_accounts",
    "node/store/test_retention",
    "node/store/test_evidence",
    "node/store/test_salvage",
    "node/deliver/test_courier",
    "node/serve/test_prometheus",
    "node/serve/test_health",
    "node/test_heartbeat",
    "lab/phantoms/test_synthesize",
    "lab/phantoms/test_quirks",
    "lab/data/test_dataset",
    "lab/data/test_rois",
    "lab/data/test_organs",
    "lab/data/test_published",
    "lab/export/test_export",
    "lab/study/test_score_dataset",
    "lab/report/test_tables",
    "phantom/test_body",
    "phantom/test_observers",
    "bundles/test_models",
    "segment/engine/test_int8",
    "dicom/test_volume",
]
SLOW = {REPOSITORY / "tests" / f"{name}.py" for name in SLOW_FILES}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file that has no test of this run."""
    if not (collection_path.name.startswith("test_") and collection_path.suffix == ".py"):
        return None
    also = {"slow"} if collection_path in SLOW else ()
    return None if may_be_chosen(config.option.markexpr, collection_path, also) else True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with long tests first, those of the node, which wait, between those that compute.

    So one process computes while another waits, and all end together.
    """
    # One that has moved would be quick again.
    assert all(path.exists() for path in SLOW), [path for path in SLOW if not path.exists()]
    for item in items:
        hidden = {mark.name for mark in item.iter_markers()} & set(MARKS) - marks_in(item.path)[1]
        assert not hidden, f"{item.nodeid} has {hidden}, which is not in its file's text"
        if item.path in SLOW:
            item.add_marker("slow")
    place = {item.path: len(LONG) for item in items}
    for item in items:
        marks = [k for k, name in enumerate(LONG) if item.get_closest_marker(name)]
        place[item.path] = min([place[item.path], *marks])
    node = REPOSITORY / "tests" / "node"
    turns: dict[Path, int] = {}
    for waits in (True, False):
        files = (path for path in place if (node in path.parents) == waits)
        turns.update((path, turn) for turn, path in enumerate(sorted(files, key=place.__getitem__)))
    items.sort(key=lambda item: (turns[item.path], node not in item.path.parents))


@functools.cache
def one_fold() -> Path:
    """The embedded bundle's first fold alone: a fifth of the wait where no ensemble is tried.

    Without the sample: int8 is neither measured nor used where it is not tested.
    """
    # On the disk of the tests' own folders, which link to it.
    root = os.environ.get("PYTEST_DEBUG_TEMPROOT")
    folder = Path(tempfile.mkdtemp(prefix="limn-one-fold-", dir=root))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    others = shutil.ignore_patterns("fold_[1-9]", "sample.npz")
    shutil.copytree(BUNDLE, folder, ignore=others, dirs_exist_ok=True)
    head = (BUNDLE / MANIFEST).read_text(encoding="utf-8").split("\n[files]\n")[0]
    head = re.sub(r"(?m)^sample = .*$", "", head)
    write_manifest(folder, re.sub(r"(?m)^folds = .*$", "folds = [0]", head))
    return folder


def require_peer(program: str) -> str:
    """Path of a program that others wrote; without it the test skips, or fails in CI."""
    path = Path(program)
    found = shutil.which(program) if not path.is_absolute() else (path.exists() and program)
    if found:
        return str(found)
    if os.environ.get("LIMN_PEERS") == "required":
        pytest.fail(f"{program} is required here and is not installed")
    pytest.skip(f"{program} is not installed; see .ci/run for the packages")


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_series(volume: Volume, folder: Path, identity: CtIdentity) -> list[Path]:
    """A volume as one DICOM file per slice."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k, ds in enumerate(ct_instances(volume, identity)):
        paths.append(folder / f"ct_{k + 1:04d}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


@pytest.fixture
def hurried_processes() -> Iterator[None]:
    """Processes that step back have the usual priority: the suite's other tests starve them."""
    with hurried():
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of this run: no verdict of an earlier one decides what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def mouse() -> tuple[Volume, Labels]:
    """A phantom that the embedded bundle never saw; asymmetric, not cubic."""
    scanner = Scanner(SpacingMm(0.3, 0.3, 0.3), (96, 84, 92), (0.0, 1.0, -2.0))
    return scan(conceive(7), scanner, 7)


@pytest.fixture(scope="session")
def make_series(
    mouse: tuple[Volume, Labels], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A folder with the mouse as a DICOM series under its own UIDs and PatientID."""
    return lambda number: _series_folder(mouse[0], number, tmp_path_factory)


@pytest.fixture(scope="session")
def make_thorax(
    mouse: tuple[Volume, Labels], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The same of the mouse's thorax alone: an eighth of the wait where any scan does."""
    hu_zyx = mouse[0].hu_zyx[24:72, 12:72, 14:78]
    grid = axial_grid(hu_zyx.shape, mouse[0].grid.spacing_mm, np.zeros(3))
    return lambda number: _series_folder(Volume(hu_zyx, grid), number, tmp_path_factory)


def _series_folder(volume: Volume, number: str, made: pytest.TempPathFactory) -> Path:
    folder = made.mktemp(f"series-{number}")
    identity = CtIdentity(f"M{number}", f"2.25.77.{number}", ("20260101", "120000"))
    write_series(volume, folder, identity)
    return folder
