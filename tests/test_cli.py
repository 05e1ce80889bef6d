import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import limn
from limn.cli import exits, main
from tests.conftest import BUNDLE

COMMANDS = ["serve", "check", "contour", "send", "log", "release", "phantom", "lab", "demo"]
COMMANDS += ["models", "certs", "queue", "retry", "resend"]
HEAVY = {"torch", "pynetdicom", "pydicom", "numpy", "distributed", "pydantic", "nnunetv2", "rich"}
WITH_CONFIG = [["serve"], ["serve", "--only", "receiver"], ["serve", "--only", "worker"]]
WITH_CONFIG += [["check"], ["log"], ["release"], ["queue"]]
WITH_CONFIG += [["retry", "scan-00001"], ["resend", "scan-00001"]]


def imported(arguments: list[str]) -> set[str]:
    """What a fresh interpreter has imported once limn has answered."""
    code = (
        "import json, sys\n"
        "from limn.cli.main import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["serve", "--help"], []])
def test_help_imports_nothing_heavy(arguments):
    """Help answers at once: no network stack, no torch, not even NumPy."""
    modules = imported(arguments)
    assert "limn.cli" in modules
    assert modules & HEAVY == set()


def test_the_log_does_without_torch(tmp_path):
    """A physicist who looks at the log does not load a deep-learning library."""
    config = tmp_path / "limn.toml"
    config.write_text(
        'data_dir = "d"\nmodel.bundle = "b"\n'
        '[[destination]]\nkind = "folder"\nname = "f"\nfolder = "o"\n'
    )
    modules = imported(["log", "--config", str(config)])
    assert "limn.node.operate.log" in modules
    assert modules & {"torch", "nnunetv2", "distributed"} == set()


def test_help_names_every_command(capsys):
    """What limn can do is on its first page."""
    with pytest.raises(SystemExit) as left:
        main.main(["--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert [command for command in COMMANDS if f"    {command} " not in out] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    """Each command explains itself."""
    with pytest.raises(SystemExit) as left:
        main.main([command, "--help"])
    assert left.value.code == 0
    assert f"usage: limn {command}" in capsys.readouterr().out


def test_the_version(capsys):
    """The version is the package's."""
    with pytest.raises(SystemExit) as left:
        main.main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"limn {limn.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["serve"],
        ["serve", "--config", "x", "--only", "kitchen"],
        ["send", "folder"],
        ["contour", "folder"],
        ["contour", "folder", "-o", "out", "--bundle", "b", "--config", "c"],
        ["phantom", "out", "--seed", "one"],
        ["log", "--config", "x", "--yesterday"],
        ["retry", "--config", "x"],
        ["resend", "--to", "tps", "--config", "x"],
    ],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    """As everywhere: 2, usage on standard error, nothing on standard output."""
    with pytest.raises(SystemExit) as left:
        main.main(arguments)
    assert left.value.code == exits.EXIT_USAGE
    streams = capsys.readouterr()
    assert streams.err.startswith("usage: limn")
    assert streams.out == ""


@pytest.mark.parametrize("command", WITH_CONFIG, ids=" ".join)
def test_a_missing_config_is_named(command, tmp_path, capsys):
    """Exit code 1 and one line with the path, for every command that reads it."""
    path = tmp_path / "absent.toml"
    assert main.main([*command, "--config", str(path)]) == exits.EXIT_WRONG
    assert capsys.readouterr().err == f"limn: config {path}: No such file or directory\n"


@pytest.mark.parametrize("command", WITH_CONFIG, ids=" ".join)
def test_a_wrong_config_is_named_with_its_key(command, tmp_path, capsys):
    """Exit code 1, the key and the value found; the node does not start."""
    path = tmp_path / "limn.toml"
    path.write_text('data_dir = "d"\nmodel.bundle = "b"\nreceive.port = 700000\n')
    assert main.main([*command, "--config", str(path)]) == exits.EXIT_WRONG
    errors = capsys.readouterr().err
    assert errors.startswith(f"limn: config {path}:\n")
    assert "receive.port" in errors
    assert "700000" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "d").exists()


def test_contour_names_a_missing_config(tmp_path, capsys):
    """The offline command reads the same config with the same messages."""
    path = tmp_path / "absent.toml"
    code = main.main(["contour", str(tmp_path), "-o", str(tmp_path / "o"), "--config", str(path)])
    assert code == exits.EXIT_WRONG
    assert f"config {path}: No such file" in capsys.readouterr().err


# Each as a person gives it, up to the folder that it is to write.
WRITING = {
    "phantom": ["phantom"],
    "phantom cohort": ["phantom", "cohort"],
    "lab try": ["lab", "try", str(BUNDLE)],
    "lab figures": ["lab", "figures"],
    "lab import": ["lab", "import", "."],
    "lab tables": ["lab", "tables", "scores.csv"],
    "lab train-phantom": ["lab", "train-phantom"],
    "demo": ["demo", "--out"],
    "contour": ["contour", ".", "-o"],
}


def unwritable(kind: str, folder: Path) -> Path:
    """A path that takes no files."""
    if kind == "a file":
        (folder / "file").write_text("mine")
        return folder / "file"
    if kind == "below a file":
        (folder / "file").write_text("mine")
        return folder / "file" / "out"
    if kind == "read-only":
        (folder / "locked").mkdir(mode=0o555)
        if os.access(folder / "locked", os.W_OK):
            pytest.skip("this user may write everywhere")
        return folder / "locked"
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    return Path({"not to be made": "/proc/x", "takes no files": "/proc"}[kind])


@pytest.mark.parametrize("command", WRITING)
@pytest.mark.parametrize(
    "kind", ["a file", "below a file", "read-only", "not to be made", "takes no files"]
)
def test_a_folder_that_can_t_be_written_is_named(command, kind, tmp_path, capsys):
    """One line at once, with the path and what to do; nothing is painted, loaded or lost."""
    path = unwritable(kind, tmp_path)
    assert main.main([*WRITING[command], str(path)]) == exits.EXIT_WRONG
    streams = capsys.readouterr()
    assert streams.err.startswith(f"limn: {path}")
    assert streams.err.endswith("; give a folder that you may write to\n")
    assert streams.err.count("\n") == 1
    assert streams.out == ""
    if (tmp_path / "file").exists():
        assert (tmp_path / "file").read_text() == "mine"


def test_a_demonstration_clears_only_its_own_folder(tmp_path, capsys):
    """A folder with somebody's scans in it is refused, and they stay."""
    (tmp_path / "scan.dcm").write_text("mine")
    assert main.main(["demo", "--out", str(tmp_path)]) == exits.EXIT_WRONG
    assert "holds something other than a demonstration" in capsys.readouterr().err
    assert (tmp_path / "scan.dcm").read_text() == "mine"


def test_the_module_runs(tmp_path):
    """`python -m limn.cli` is how the supervisor starts its processes; its exit code counts."""
    done = subprocess.run(
        [sys.executable, "-m", "limn.cli", "log", "--config", str(tmp_path / "absent.toml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("limn: config ")
