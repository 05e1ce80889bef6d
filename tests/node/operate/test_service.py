"""The recipes by which a computer starts a node, read as their own programs read them."""

import getpass
import plistlib
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from limn.cli.main import main
from limn.domain.errors import ConfigWrong
from limn.node.config import load_config
from limn.node.operate.service import write_service

TEXT = """data_dir = "."
model.bundle = "bundle"
[[destination]]
kind = "folder"
name = "tps"
folder = "tps"
"""
TASK = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"


@pytest.fixture
def site(tmp_path):
    """A config in a folder whose name needs quotes in each of the formats."""
    folder = tmp_path / 'mouse & rat 100 % "site" $HOME'
    folder.mkdir()
    path = folder / "my site.toml"
    path.write_text(TEXT)
    return path


def test_launchd(site):
    """A property list that starts this Python with the config, and keeps it running."""
    config = load_config(site)
    lines = write_service("launchd", site, config)
    read = plistlib.loads((site.parent / "org.limn.node.plist").read_bytes())
    assert read["ProgramArguments"] == [
        *(sys.executable, "-m", "limn.cli", "serve", "--config", str(site))
    ]
    assert read["RunAtLoad"] is True
    assert read["KeepAlive"] == {"SuccessfulExit": False}
    assert read["ExitTimeOut"] > config.engine.deadline_s
    assert any("launchctl bootstrap" in line for line in lines)


def test_task_scheduler(site):
    """An XML of schema 1.2 in UTF-16, with no limit of time and a start with the computer."""
    write_service("task", site, load_config(site))
    contents = (site.parent / "limn-task.xml").read_bytes()
    assert contents[:2] in (b"\xff\xfe", b"\xfe\xff")
    task = ElementTree.fromstring(contents)  # noqa: S314 - limn has just written it
    assert task.tag == f"{TASK}Task"
    assert task.get("version") == "1.2"
    run = task.find(f"{TASK}Actions/{TASK}Exec")
    assert run.find(f"{TASK}Command").text == sys.executable
    assert run.find(f"{TASK}Arguments").text == f'-m limn.cli serve --config "{site}"'
    assert task.find(f"{TASK}Triggers/{TASK}BootTrigger") is not None
    assert task.find(f"{TASK}Settings/{TASK}ExecutionTimeLimit").text == "PT0S"


def test_systemd(site):
    """A unit that systemd itself accepts, if it is here."""
    write_service("systemd", site, load_config(site))
    unit = site.parent / "limn.service"
    text = unit.read_text()
    quoted = str(site).replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    assert f'ExecStart="{sys.executable}" "-m" "limn.cli" "serve" "--config" "{quoted}"\n' in text
    assert "KillMode=mixed\n" in text
    if shutil.which("systemd-analyze"):
        done = subprocess.run(
            ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_what_a_person_types_works_in_every_shell(site):
    """PowerShell leaves %USERNAME% as it is; a path with spaces is one word."""
    (task,) = write_service("task", site, load_config(site))[1:]
    assert f'/RU "{getpass.getuser()}" /RP * /XML "{site.parent}' in task
    assert "%" not in task.replace(str(site.parent), "")
    for kind in ("systemd", "launchd"):
        copy = shlex.split(write_service(kind, site, load_config(site))[1])
        assert Path(copy[-2]).parent == site.parent


def test_a_recipe_that_is_there_stays(site):
    """A person may have changed it."""
    write_service("launchd", site, load_config(site))
    with pytest.raises(ConfigWrong, match="exists; nothing was changed"):
        write_service("launchd", site, load_config(site))


def test_init_writes_it_beside_the_config(tmp_path, capsys):
    """With the commands that install it."""
    path = tmp_path / "site.toml"
    assert main(["init", str(path), "--service", "systemd"]) == 0
    assert (tmp_path / "limn.service").exists()
    said = capsys.readouterr().out
    assert "limn check --config" in said
    assert "systemctl enable --now limn" in said
