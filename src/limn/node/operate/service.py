"""Writes the recipe by which the computer starts a node: systemd, launchd, Windows Task Scheduler.

Each starts `limn serve` with the Python that runs this, when the computer starts, and again if it
ends with an error. Sources: systemd.service(5), launchd.plist(5), Microsoft's Task Scheduler schema
1.2.
"""

from __future__ import annotations

import getpass
import plistlib
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args
from xml.etree import ElementTree

from limn.domain.errors import ConfigWrong
from limn.domain.files import OWNER_ONLY_FILE, write_durably
from limn.node.config import Config

Service = Literal["systemd", "launchd", "task"]
SERVICES: tuple[Service, ...] = get_args(Service)
LABEL = "org.limn.node"
# Beyond the deadline of a scan: a minute for each process.
STOP_S = 300.0
RESTART_S = 5
_TASKS = "http://schemas.microsoft.com/windows/2004/02/mit/task"


def write_service(kind: Service, config_path: Path, config: Config) -> list[str]:
    """Write a recipe beside the config; returns what to do next.

    Raises
    ------
    ConfigWrong
        If the file exists.
    """
    name, make, install = _RECIPES[kind]
    path = config_path.with_name(name)
    if path.exists():
        msg = f"{path} exists; nothing was changed. Move it away, or give the config another folder"
        raise ConfigWrong(msg)
    # Not resolved: the python of a virtual environment is a link.
    command = [str(Path(sys.executable).absolute()), "-m", "limn.cli", "serve", "--config"]
    arguments = [*command, str(config_path.resolve())]
    stop_s = int(config.engine.deadline_s + STOP_S)
    write_durably(path, make(arguments, config_path.resolve().parent, stop_s))
    path.chmod(OWNER_ONLY_FILE)
    return [f"{path} is written; to have the computer start limn:", *install(path)]


def _systemd(arguments: list[str], folder: Path, stop_s: int) -> bytes:
    quoted = " ".join(f'"{_escaped(each)}"' for each in arguments)
    lines = (
        "[Unit]",
        "Description=limn: receives, contours, delivers",
        "Wants=network-online.target time-sync.target",
        "After=network-online.target time-sync.target",
        "",
        "[Service]",
        f"User={getpass.getuser()}",
        f"WorkingDirectory={_escaped(str(folder))}",
        f"ExecStart={quoted}",
        "Restart=on-failure",
        f"RestartSec={RESTART_S}",
        "# The supervisor alone is told to stop; it ends its processes and finishes what runs.",
        "KillMode=mixed",
        f"TimeoutStopSec={stop_s}",
        "UMask=0077",
        "LimitNOFILE=65536",
        "NoNewPrivileges=yes",
        "PrivateTmp=yes",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
        "",
    )
    return "\n".join(lines).encode()


def _escaped(text: str) -> str:
    """A text in a unit: `%` begins a specifier there, `$` a variable."""
    for letter, instead in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        text = text.replace(letter, instead)
    return text


def _launchd(arguments: list[str], folder: Path, stop_s: int) -> bytes:
    return plistlib.dumps(
        {
            "Label": LABEL,
            "ProgramArguments": arguments,
            "WorkingDirectory": str(folder),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": RESTART_S,
            "ExitTimeOut": stop_s,
            # Otherwise macOS slows it down as background work.
            "ProcessType": "Interactive",
            "Umask": 0o077,
            "StandardErrorPath": str(folder / "limn-service.log"),
        }
    )


def _task(arguments: list[str], folder: Path, stop_s: int) -> bytes:
    # Task Scheduler has no time to stop: limn ends with the task's process.
    del stop_s
    task = ElementTree.Element("Task", version="1.2", xmlns=_TASKS)
    about = ElementTree.SubElement(task, "RegistrationInfo")
    ElementTree.SubElement(about, "Description").text = "limn: receives, contours, delivers"
    triggers = ElementTree.SubElement(task, "Triggers")
    boot = ElementTree.SubElement(triggers, "BootTrigger")
    ElementTree.SubElement(boot, "Enabled").text = "true"
    settings = ElementTree.SubElement(task, "Settings")
    for name, value in (
        ("MultipleInstancesPolicy", "IgnoreNew"),
        ("DisallowStartIfOnBatteries", "false"),
        ("StopIfGoingOnBatteries", "false"),
        ("ExecutionTimeLimit", "PT0S"),
        ("Priority", "4"),
    ):
        ElementTree.SubElement(settings, name).text = value
    again = ElementTree.SubElement(settings, "RestartOnFailure")
    ElementTree.SubElement(again, "Interval").text = "PT1M"
    ElementTree.SubElement(again, "Count").text = "999"
    actions = ElementTree.SubElement(task, "Actions")
    command = ElementTree.SubElement(actions, "Exec")
    ElementTree.SubElement(command, "Command").text = arguments[0]
    ElementTree.SubElement(command, "Arguments").text = " ".join(
        f'"{each}"' if " " in each else each for each in arguments[1:]
    )
    ElementTree.SubElement(command, "WorkingDirectory").text = str(folder)
    ElementTree.indent(task)
    text: bytes = ElementTree.tostring(task, encoding="utf-16", xml_declaration=True)
    return text


_Make = Callable[[list[str], Path, int], bytes]
_Install = Callable[[Path], list[str]]
_RECIPES: Mapping[Service, tuple[str, _Make, _Install]] = {
    "systemd": (
        "limn.service",
        _systemd,
        lambda path: [
            f"sudo cp {shlex.quote(str(path))} /etc/systemd/system/",
            "sudo systemctl enable --now limn",
        ],
    ),
    "launchd": (
        f"{LABEL}.plist",
        _launchd,
        lambda path: [
            f"cp {shlex.quote(str(path))} ~/Library/LaunchAgents/",
            f"launchctl bootstrap gui/$(id -u) ~/Library/LaunchAgents/{path.name}",
        ],
    ),
    "task": (
        "limn-task.xml",
        _task,
        # Names no variable: PowerShell and cmd write them differently. `*` asks for the password.
        lambda path: [f'schtasks /Create /TN limn /RU "{getpass.getuser()}" /RP * /XML "{path}"'],
    ),
}
