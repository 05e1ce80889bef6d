"""The command lines of the processes of a host, by the site's config and the host's part."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from limn.domain.errors import ConfigWrong
from limn.node.config import Config
from limn.node.host.certs import TLS_FILES

Part = Literal["receiver", "engine", "scheduler", "worker", "board", "shadow"]

# For every process of the node.
ENVIRONMENT = {
    # limn charges a worker's death to the scan that ran; Dask would charge it to all.
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
    # Native code may hold the interpreter lock for long; limn's own deadline ends a job.
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "300s",
    # Dask would keep a sample of the stack of every second for an hour, which nothing reads.
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING": "False",
    # Dask's HTTP pages ask nobody who they are, not even another user of this host.
    "DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES": "[]",
    "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": "[]",
    # The kernel's probes, which no interpreter lock delays, detect a host behind a cut link.
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "15s",
    "DASK_LOGGING__DISTRIBUTED": "warning",
}


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the node."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def name_of(only: Part | None) -> str:
    """The name of this host's part in its lock and its log."""
    # A receiving host is the node; scheduler and workers may stand beside it on its disk.
    return f"limn-{only}" if only in {"scheduler", "worker"} else "limn"


def processes(config: Config, config_path: Path, only: Part | None) -> list[Process]:
    """The processes that the supervisor of this host starts, in this order.

    Parameters
    ----------
    only : "receiver" means reception, dispatch and delivery, which share their journal;
        "scheduler" and "worker" only these; None all that the config names

    Raises
    ------
    ConfigWrong
        If the config does not fit the part.
    """
    engine = config.engine
    if only == "board":
        msg = (
            "the board runs where the journal is: put [board] into the config of that host, and "
            "start limn serve there, or limn serve --only receiver"
        )
        raise ConfigWrong(msg)
    if only == "shadow":
        msg = "the shadow is a part of a node: model.shadow in its config, and limn serve"
        raise ConfigWrong(msg)
    if only == "engine":
        msg = "dispatch and delivery share the receiver's journal; serve --only receiver runs both"
        raise ConfigWrong(msg)
    if only and engine.tls_dir is None:
        msg = (
            f"serve --only {only} needs engine.tls_dir: parts that are started alone share the "
            "certificates that limn certs makes"
        )
        raise ConfigWrong(msg)
    if only == "worker" and not engine.workers:
        raise ConfigWrong("serve --only worker: engine.workers is 0")
    found = []
    if only == "scheduler" or (only is None and engine.scheduler == "local"):
        found.append(Process("scheduler", _scheduler(config)))
    if only in {None, "worker"}:
        found += _workers(config, config_path)
    if only in {None, "receiver"}:
        limn = (sys.executable, "-m", "limn.cli", "serve", "--config", str(config_path))
        board = [] if config.board is None else ["board"]
        shadow = [] if config.model.shadow is None else ["shadow"]
        parts = (*_RECEIVING, *board, *shadow)
        found += [Process(part, (*limn, "--only", part, "--child")) for part in parts]
    return found


_RECEIVING = ("engine", "receiver")
# Dask opens its HTTP port on every interface even without a dashboard and without pages.
_NO_PAGE = ("--no-dashboard", "--dashboard-address", "127.0.0.1:0")


def _scheduler(config: Config) -> list[str]:
    return [
        *(sys.executable, "-m", "distributed.cli.dask_scheduler"),
        *("--host", config.engine.host, "--port", str(config.engine.port)),
        *("--protocol", "tls", *_NO_PAGE, "--preload", "limn.node.host.lifetime"),
        *_tls(config),
    ]


def _workers(config: Config, config_path: Path) -> list[Process]:
    engine = config.engine
    found = []
    for number, port in enumerate(engine.worker_ports):
        # Without a death timeout, so that a warm worker waits for its scheduler without end.
        command = [
            *(sys.executable, "-m", "distributed.cli.dask_worker", engine.address),
            *("--host", engine.host, "--worker-port", str(port)),
            *("--nthreads", "1", "--no-nanny", *_NO_PAGE, "--memory-limit", "0"),
            *("--local-directory", str(config.data_dir / "dask")),
            *_tls(config),
            *("--preload", "limn.node.contour.work.worker", str(config_path)),
        ]
        gpu = {"CUDA_VISIBLE_DEVICES": str(engine.gpus[number])} if engine.gpus else {}
        name = "worker" if engine.workers == 1 else f"worker-{number + 1}"
        found.append(Process(name, command, gpu))
    return found


def _tls(config: Config) -> list[str]:
    return [
        part
        for flag, name in zip(("ca-file", "cert", "key"), TLS_FILES, strict=True)
        for part in (f"--tls-{flag}", str(config.tls_dir / name))
    ]
