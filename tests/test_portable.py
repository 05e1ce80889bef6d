"""What runs on POSIX alone stays out of the package: Windows is a place where limn will run.

None of this was tried on Windows; these tests keep out what is known not to work there. Each
rule names its guard, if there is one.
"""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SOURCE = REPOSITORY / "src" / "limn"
FILES = sorted(SOURCE.rglob("*.py"))

# Modules and attributes that Windows does not have.
POSIX_MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
POSIX_NAMES = {
    "os": "fork forkpty getuid geteuid getgid getpgid killpg mkfifo nice pidfd_open setsid setuid "
    "statvfs wait waitpid WEXITSTATUS posix_fallocate",
    "signal": "SIGKILL SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGPIPE alarm setitimer "
    "pthread_kill sigwait",
    "socket": "AF_UNIX SO_REUSEPORT socketpair fromfd",
    "select": "poll epoll",
    "multiprocessing": "Pool Process",
    "subprocess": "getoutput",
}
FORBIDDEN = {f"{module}.{name}" for module, names in POSIX_NAMES.items() for name in names.split()}
# Where a file is named that only Linux has; a URL or a DICOM path is none.
POSIX_PATH = re.compile(r"^/(proc|dev|tmp|etc|var|usr|run|sys)(/|$)")
TEXT_IO = {"read_text", "write_text"}


@functools.cache
def walked(path: Path) -> list[ast.AST]:
    """Every node of a module; each rule goes through them."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def nodes() -> Iterator[tuple[Path, ast.AST]]:
    """Every node of every module of the package."""
    for path in FILES:
        for node in walked(path):
            yield path, node


def found(path: Path, node: ast.AST, what: str) -> str:
    """Where something stands."""
    return f"{path.relative_to(REPOSITORY)}:{getattr(node, 'lineno', 0)} {what}"


def test_no_module_of_posix_alone_is_imported() -> None:
    """An import would keep the whole room from opening, unless Windows is excepted there."""
    wrong = []
    for path in FILES:
        elsewhere = {
            id(node)
            for block in walked(path)
            if isinstance(block, ast.If) and ast.unparse(block.test) == "sys.platform != 'win32'"
            for node in ast.walk(block)
        }
        for node in walked(path):
            if id(node) in elsewhere:
                continue
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            wrong += [found(path, node, name) for name in names if name in POSIX_MODULES]
    assert not wrong


def test_nothing_is_called_that_windows_lacks() -> None:
    """No fork, no signal but SIGINT and SIGTERM, no socket file, no pool that forks."""
    wrong = []
    for path, node in nodes():
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            wrong += [found(path, node, name)] if name in FORBIDDEN else []
        if isinstance(node, ast.keyword) and node.arg == "preexec_fn":
            wrong.append(found(path, node.value, "preexec_fn"))
    assert not wrong


def test_processes_are_spawned_not_forked() -> None:
    """The context is named wherever one is asked for; its default forks on Linux."""
    wrong = []
    for path, node in nodes():
        if isinstance(node, ast.Call) and _name(node.func) == "get_context":
            given = [each.value for each in node.args if isinstance(each, ast.Constant)]
            wrong += [] if given == ["spawn"] else [found(path, node, str(given))]
    assert not wrong


def test_no_file_is_named_that_linux_alone_has() -> None:
    """/proc, /dev, /tmp: what is needed of them Python gives on every system."""
    wrong = [
        found(path, node, node.value)
        for path, node in nodes()
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and POSIX_PATH.match(node.value)
    ]
    assert not wrong


def test_text_is_utf_8_on_every_system() -> None:
    """Windows reads and writes text in the code page of its country unless told otherwise.

    An animal named in another script would end the thread that writes the scan log.
    """
    wrong = []
    for path, node in nodes():
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        name = _name(node.func)
        if name in TEXT_IO and not _takes_encoding_in_place(node, name):
            wrong.append(found(path, node, name))
        elif name == "open" and _opens_text(node):
            wrong.append(found(path, node, "open"))
    assert not wrong


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _takes_encoding_in_place(node: ast.Call, name: str) -> bool:
    return len(node.args) > (0 if name == "read_text" else 1)


def _opens_text(node: ast.Call) -> bool:
    """Whether a call of ``open`` or ``Path.open`` is of a text file."""
    first = 0 if isinstance(node.func, ast.Attribute) else 1
    modes = [k.value for k in node.keywords if k.arg == "mode"] + node.args[first : first + 1]
    mode = modes[0].value if modes and isinstance(modes[0], ast.Constant) else "r"
    # os.open, zipfile's and pynetdicom's take no mode of this kind.
    owner = getattr(getattr(node.func, "value", None), "id", "")
    return owner not in (
        "os",
        "Image",
        "archive",
        "packed",
        "zipfile",
        "tarfile",
    ) and "b" not in str(mode)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("import fcntl", test_no_module_of_posix_alone_is_imported),
        ("import os\nos.fork()", test_nothing_is_called_that_windows_lacks),
        ("import signal\nsignal.SIGKILL", test_nothing_is_called_that_windows_lacks),
        ("get_context('fork')", test_processes_are_spawned_not_forked),
        ("open('/proc/1/stat', 'rb')", test_no_file_is_named_that_linux_alone_has),
        ("p.read_text()", test_text_is_utf_8_on_every_system),
        ("p.open('a', newline='')", test_text_is_utf_8_on_every_system),
        ("open(p)", test_text_is_utf_8_on_every_system),
    ],
)
def test_these_tests_find_what_they_forbid(text, rule, tmp_path, monkeypatch) -> None:
    """A rule that never fails guards nothing."""
    (tmp_path / "bad.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr("tests.test_portable.FILES", [tmp_path / "bad.py"])
    monkeypatch.setattr("tests.test_portable.REPOSITORY", tmp_path)
    with pytest.raises(AssertionError, match=r"bad\.py"):
        rule()
