"""`limn check` finds faults before an animal is asleep: one line each, with the remedy."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from pynetdicom.sop_class import Verification

from limn.cli import exits, main
from limn.node.config import load_config
from limn.node.host import certs
from limn.node.serve.board_check import check_board_files
from limn.node.store.disk.board_accounts import Account, accounts_to_change
from limn.node.store.journal.journal import Journal
from tests.conftest import BUNDLE, free_port
from tests.support.node.parts import Archive, peer

CONFIG = """\
data_dir = "data"
[receive]
port = {receive}
min_free_mb = 1
[model]
bundle = "{bundle}"
allow_demo_bundle = true
device = "cpu"
[engine]
port = {engine}
wake_port = {wake}
[metrics]
port = {metrics}
[[destination]]
kind = "dicom"
name = "planning system"
ae_title = "TPS"
host = "127.0.0.1"
port = {tps}
"""


class Site:
    """A site's config, its planning system, and the output of the check."""

    def __init__(self, folder: Path, tps: int, capsys: pytest.CaptureFixture[str]) -> None:
        names = ("receive", "engine", "wake", "metrics")
        self.ports = {name: free_port() for name in names}
        self.folder = folder
        self.data = folder / "data"
        self.config = folder / "limn.toml"
        self.config.write_text(CONFIG.format(bundle=BUNDLE, tps=tps, **self.ports))
        self._capsys = capsys

    def change(self, old: str, new: str) -> None:
        """Another line in the config."""
        assert old in self.config.read_text()
        self.config.write_text(self.config.read_text().replace(old, new))

    def check(self, *arguments: str) -> tuple[int, list[str], list[str]]:
        """Exit code, the lines of failed tries, and all lines."""
        code = main.main(["check", "--config", str(self.config), *arguments])
        lines = self._capsys.readouterr().out.splitlines()
        return code, [line for line in lines if line.startswith("FAIL")], lines

    def fails(self, name: str) -> str:
        """The only line that fails, which must be that of try ``name``."""
        code, (line,), lines = self.check()
        assert code == exits.EXIT_WRONG
        assert line.startswith(f"FAIL {name}: ")
        assert (lines[0], lines[-1]) == ("not ready: 1 fault", f"not ready: {name}")
        return line


@pytest.fixture
def site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Site]:
    """All is well; the networks are not loaded, which the demo and the node tests do."""
    ensemble = SimpleNamespace(
        bundle=SimpleNamespace(folds=(0, 1)), description="cpu", warm_up=lambda: None, lost_gpu=""
    )
    warm = SimpleNamespace(ensemble=ensemble)
    monkeypatch.setattr("limn.node.operate.check.warm_up", lambda *_: warm)
    with peer(Archive(), classes=(Verification,)) as port:
        yield Site(tmp_path, port, capsys)


def test_all_is_well(site: Site) -> None:
    """The verdict first, a line for each try, and the verdict again."""
    code, failed, lines = site.check()
    assert (code, failed, lines[0], lines[-1]) == (0, [], "ready", "ready")
    assert lines[1] == f"config {site.config}"
    tried = [line.split(":")[0].removeprefix(" ok  ") for line in lines if line.startswith(" ok ")]
    assert tried == [
        "bundle",
        "model",
        "data folder",
        "disk space",
        "journal",
        "watched folder",
        "TLS with DICOM peers",
        "engine",
        "ports",
        "destination planning system",
    ]


def test_a_disk_below_its_watermark(site: Site) -> None:
    """The message has the free space, the config key and the effect."""
    site.change("min_free_mb = 1\n", "min_free_mb = 1000000000\n")
    said = site.fails("disk space")
    assert "receive.min_free_mb is 1000000000" in said
    assert "free some space" in said


def test_a_disk_on_which_nobody_new_is_let_in(site: Site) -> None:
    """The upper of the two marks: scans that have begun go on, new ones are refused."""
    site.change("min_free_mb = 1\n", "min_free_mb = 1\nrefuse_below_mb = 1000000000\n")
    assert "new associations are refused below 1000000000" in site.fails("disk space")


def test_a_data_folder_that_can_t_be_written(site: Site) -> None:
    """Tries that depend on it are left out; the operator reads one cause."""
    site.data.write_text("a file in its place")
    code, failed, lines = site.check()
    assert code == exits.EXIT_WRONG
    assert [line.split(":")[0] for line in failed] == ["FAIL data folder"]
    assert f"{site.data} can't be written" in failed[0]
    assert lines[-1] == "not ready: data folder, disk space, ports"


def test_a_damaged_journal(site: Site) -> None:
    """The check only reads it: the node renames it when it starts."""
    site.data.mkdir()
    (site.data / "journal.sqlite").write_text("no database " * 100)
    said = site.fails("journal")
    assert "is damaged (file is not a database)" in said
    assert "limn serve renames it" in said
    assert (site.data / "journal.sqlite").read_text().startswith("no database")


def test_a_journal_of_a_newer_limn(site: Site) -> None:
    """Said before an animal is asleep; `limn serve` ends at once, and its processes never begin."""
    journal = site.data / "journal.sqlite"
    Journal(journal).close()
    with closing(sqlite3.connect(journal)) as db:
        db.execute("pragma user_version = 99")
    said = site.fails("journal")
    assert "was made by a newer limn (journal version 99, this limn knows" in said
    assert "docs/backup.md" in said
    command = [sys.executable, "-m", "limn.cli", "serve", "--config", str(site.config)]
    served = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert served.returncode == exits.EXIT_WRONG
    assert "was made by a newer limn" in served.stderr
    assert "started again" not in served.stderr


def test_a_planning_system_that_does_not_answer(site: Site) -> None:
    """The message names the peer, its address and the settings to compare."""
    text = site.config.read_text()
    port = text.rpartition("port = ")[2].strip()
    site.change(f"port = {port}", f"port = {free_port()}")
    said = site.fails("destination planning system")
    assert "does not answer; start it, or compare host, port and AE titles" in said


def test_a_planning_system_that_calls_itself_otherwise(site: Site) -> None:
    """Its refusal in words: which title limn calls it by, and whose setting to compare."""
    with peer(Archive(), classes=(Verification,), ae_title="X", only_this_title=True) as port:
        text = site.config.read_text()
        site.change(f"port = {text.rpartition('port = ')[2].strip()}", f"port = {port}")
        said = site.fails("destination planning system")
    assert "called AE title not recognized: this node calls it TPS; compare the planning" in said
    assert "start it" not in said


def test_a_model_that_is_absent(site: Site) -> None:
    """The networks of a bundle that is not there are not tried."""
    site.change(str(BUNDLE), str(site.folder / "absent"))
    code, failed, lines = site.check()
    assert code == exits.EXIT_WRONG
    assert [line.split(":")[0] for line in failed] == ["FAIL bundle"]
    assert "No such file or directory; give the folder of a bundle" in failed[0]
    assert " --  model: not tried; mend bundle first" in lines
    assert lines[0] == "not ready: 1 fault", "what was not tried is none"
    assert lines[-1] == "not ready: bundle, model, engine"


def test_a_model_that_was_changed(site: Site) -> None:
    """One byte in one file."""
    copy = site.folder / "bundle"
    shutil.copytree(BUNDLE, copy)
    plans = copy / "plans.json"
    plans.write_bytes(plans.read_bytes()[:-1] + b" ")
    site.change(str(BUNDLE), str(copy))
    _, failed, _ = site.check()
    assert failed[0].startswith("FAIL bundle: ")
    assert f"{plans} has sha256" in failed[0]
    assert "install the bundle again" in failed[0]


def test_a_device_that_is_not_there(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own words, and which key to change."""

    def refuse(config, kept_in) -> None:
        raise RuntimeError("Found no NVIDIA driver\non your system")

    monkeypatch.setattr("limn.node.operate.check.warm_up", refuse)
    said = site.fails("model")
    assert "model.device cpu (Found no NVIDIA driver on your system)" in said


def test_a_gpu_that_the_networks_had_to_leave(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node would compute on the CPU, an hour instead of a minute; a check does not pass."""
    ensemble = SimpleNamespace(
        bundle=SimpleNamespace(folds=(0,)),
        description="cpu",
        warm_up=lambda: None,
        lost_gpu="Torch not compiled with CUDA enabled",
    )
    warm = SimpleNamespace(ensemble=ensemble)
    monkeypatch.setattr("limn.node.operate.check.warm_up", lambda *_: warm)
    assert "(Torch not compiled with CUDA enabled)" in site.fails("model")


def test_a_board_for_other_computers(site: Site) -> None:
    """Its key, its accounts and its certificate are tried, each with what to do."""
    made = site.folder / "certs"
    now = datetime.now(UTC)
    (folder,) = certs.make(made, [], [certs.Host(("board.example",))], now)
    port = free_port()
    site.change(
        "[engine]",
        f'[board]\nhost = "0.0.0.0"\nport = {port}\nnames = ["board.example"]\n[board.tls]\n'
        f'certificate = "{folder / "cert.pem"}"\nkey = "{folder / "key.pem"}"\n[engine]',
    )
    assert "limn board add NAME --role act" in site.fails("board")
    path = load_config(site.config).board_accounts_path
    with accounts_to_change(path) as accounts:
        accounts["Anna"] = Account("Anna", "act", "$argon2id$")
    code, _, lines = site.check()
    assert code == 0
    (line,) = [each for each in lines if "board: " in each]
    assert f"https://board.example:{port} for others, accounts: Anna" in line
    assert "animals' names are hidden; certificate valid until" in line
    assert str(port) in next(each for each in lines if " ports: " in each)
    with accounts_to_change(path) as accounts:
        accounts.clear()
    assert "nobody has an account" in site.fails("board")
    # The node contours all the same, as long as its key can be used.
    check_board_files(load_config(site.config))
    (folder / "key.pem").chmod(0o644)
    assert "chmod 600" in site.fails("board")


@pytest.mark.parametrize("name", ["receive", "engine", "metrics"])
def test_a_port_that_is_taken(site: Site, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the config key and who has the port, for each port of the node."""
    monkeypatch.setattr("limn.node.serve.ports.PORT_WAIT_S", 0.0)
    with socket.create_server(("127.0.0.1", site.ports[name])):
        said = site.fails("ports")
    assert f"{name}.port {site.ports[name]} on 127.0.0.1 can't be used" in said
    assert f"process {os.getpid()})" in said


def test_every_port_that_is_taken_is_named_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person mends them in one go; free ones are named with their keys too."""
    monkeypatch.setattr("limn.node.serve.ports.PORT_WAIT_S", 0.0)
    _, _, lines = site.check()
    (free,) = [each for each in lines if " ports: " in each]
    for name in ("receive", "engine", "metrics"):
        assert f"{name}.port {site.ports[name]}" in free
    with (
        socket.create_server(("127.0.0.1", site.ports["receive"])),
        socket.create_server(("127.0.0.1", site.ports["metrics"])),
    ):
        said = site.fails("ports")
    for name in ("receive", "metrics"):
        assert f"{name}.port {site.ports[name]} on 127.0.0.1 can't be used (" in said
    assert said.endswith("; stop what listens there or choose other ports in the config")
    assert "engine.port" not in said


def test_ports_of_a_node_that_runs_here_are_no_fault(site: Site) -> None:
    """The check may be run beside the node; the ports are the node's own."""
    site.data.mkdir()
    with (
        FileLock(site.data / "limn.lock"),
        socket.create_server(("127.0.0.1", site.ports["receive"])),
    ):
        code, _, lines = site.check()
    assert code == 0
    assert " ok  ports: in use by the node that runs on this data folder" in lines


def test_a_mark_that_a_killed_node_left_hides_no_port(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that says "ready" outlives a power cut; the lock does not."""
    monkeypatch.setattr("limn.node.serve.ports.PORT_WAIT_S", 0.0)
    site.data.mkdir()
    (site.data / "ready").write_text("1\n")
    with socket.create_server(("127.0.0.1", site.ports["receive"])):
        assert "receive.port" in site.fails("ports")


@pytest.mark.parametrize(
    ("days_ago", "said"), [(0, ""), (825 - 29, "ends on "), (825 + 1, "ended on ")]
)
def test_a_certificate_that_ends_soon(site: Site, days_ago: int, said: str) -> None:
    """Thirty days before nobody can connect any more, the check fails."""
    made = datetime.now(UTC) - timedelta(days=days_ago)
    certs.make(site.folder / "certs", [certs.Host.this()], [], made)
    (folder,) = (site.folder / "certs" / "dicom").glob("*/")
    paths = {
        key: folder / name
        for key, name in zip(("ca", "certificate", "key"), certs.TLS_FILES, strict=True)
    }
    table = "".join(f'{key} = "{path}"\n' for key, path in paths.items())
    site.change("[model]", f"[receive.tls]\n{table}[model]")
    if not said:
        code, failed, lines = site.check()
        assert (code, failed) == (0, [])
        assert any("certificates are valid until 20" in line for line in lines)
        return
    line = site.fails("TLS with DICOM peers")
    assert f"{paths['certificate']} {said}" in line
    assert "renew it" in line


def test_a_watched_folder_that_is_a_file(site: Site) -> None:
    """What stands there is named."""
    site.change("[model]", '[watch]\nfolder = "in"\n[model]')
    (site.folder / "in").touch()
    assert "in: it is a file, a folder is expected; mount" in site.fails("watched folder")


def test_a_watched_folder_that_is_gone(site: Site) -> None:
    """A share that is not mounted."""
    site.change("[model]", '[watch]\nfolder = "in"\n[model]')
    assert "can't be reached; mount it or mend the path" in site.fails("watched folder")


def test_every_fault_has_a_line_of_its_own(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several at once: all are found in one go, each on one line however narrow the terminal."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("limn.node.serve.ports.PORT_WAIT_S", 0.0)
    site.data.mkdir()
    (site.data / "journal.sqlite").write_text("no database " * 100)
    site.change("[model]", '[watch]\nfolder = "in"\n[model]')
    with socket.create_server(("127.0.0.1", site.ports["receive"])):
        code, failed, lines = site.check()
    assert code == exits.EXIT_WRONG
    assert [line.split(":")[0] for line in failed] == [
        "FAIL journal",
        "FAIL watched folder",
        "FAIL ports",
    ]
    assert lines[-1] == "not ready: journal, watched folder, ports"
    assert lines[0] == "not ready: 3 faults"


def parted(site: Site) -> None:
    """The site becomes one of several hosts, its scheduler another."""
    certs.make(site.folder / "certs", [certs.Host.this()], [], datetime.now(UTC))
    (folder,) = (site.folder / "certs" / "engine").glob("*/")
    address = f'scheduler = "tls://127.0.0.1:{free_port()}"\n'
    worker = f"worker_port = {free_port()}\n"
    site.change("[engine]\n", f'[engine]\ntls_dir = "{folder}"\n{address}{worker}')


@pytest.mark.parametrize(
    ("part", "tried"),
    [
        ("scheduler", ["data folder", "engine", "ports"]),
        ("worker", ["bundle", "model", "data folder", "engine", "ports"]),
        (
            "receiver",
            [
                *("bundle", "data folder", "disk space", "journal", "watched folder"),
                *("TLS with DICOM peers", "engine", "ports", "destination planning system"),
            ],
        ),
    ],
)
def test_a_part_is_asked_for_what_it_needs(
    site: Site, monkeypatch: pytest.MonkeyPatch, part: str, tried: list[str]
) -> None:
    """No journal on a worker's host, no network on a receiver's; beside a running part or not."""
    parted(site)
    monkeypatch.setattr("limn.node.operate.check._count_workers", lambda config: 2)
    for runs in (False, True):
        site.data.mkdir(exist_ok=True)
        name = "limn" if part == "receiver" else f"limn-{part}"
        with FileLock(site.data / f"{name}.lock") if runs else nullcontext():
            code, failed, lines = site.check("--only", part)
        assert (code, failed) == (0, [])
        assert [line.split(":")[0][5:] for line in lines if line.startswith(" ok ")] == tried
        in_use = f" ok  ports: in use by the {part} that runs on this data folder"
        assert (in_use in lines) == runs


def test_a_receiver_without_workers_is_not_ready(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take scans and contour none; a worker's host may be the first to start."""
    parted(site)
    monkeypatch.setattr("limn.node.operate.check._count_workers", lambda config: 0)
    code, failed, _ = site.check("--only", "receiver")
    assert (code, [line.split(":")[0] for line in failed]) == (1, ["FAIL engine"])
    assert "no warm worker at" in failed[0]
    assert site.check("--only", "worker")[0] == 0


def test_a_part_s_ports_are_its_own(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node beside it holds the doors, which are no worker's; the worker's own are tried."""
    parted(site)
    monkeypatch.setattr("limn.node.operate.check._count_workers", lambda config: 2)
    monkeypatch.setattr("limn.node.serve.ports.PORT_WAIT_S", 0.0)
    worker = int(site.config.read_text().partition("worker_port = ")[2].split()[0])
    with socket.create_server(("127.0.0.1", site.ports["receive"])):
        assert site.check("--only", "worker")[0] == 0
    with socket.create_server(("127.0.0.1", worker)):
        _, failed, _ = site.check("--only", "worker")
    assert [line.split(" on ")[0] for line in failed] == [
        f"FAIL ports: engine.worker_port {worker}"
    ]


def test_a_config_that_does_not_fit_the_part(site: Site) -> None:
    """The same words as of `limn serve`, before it is started."""
    _, failed, _ = site.check("--only", "worker")
    assert [line.split(":")[0] for line in failed] == ["FAIL engine"]
    assert "serve --only worker needs engine.tls_dir" in failed[0]
