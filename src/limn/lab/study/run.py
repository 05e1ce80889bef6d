"""Runs the steps of a study, each once, on every GPU, and shows the time that is left.

A finished step has a file in ``done/`` with its duration and device, so a killed study does only
the other steps. Dask starts a step when the steps before it are done. Each GPU has one step at a
time; without a GPU there is one step at a time, for a network uses all cores.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distributed
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from limn.domain.errors import StageFailed
from limn.domain.files import write_durably
from limn.domain.timing import in_words
from limn.lab.process.isolated import end_isolated, run_isolated
from limn.lab.study.steps import Step

LOOK_S = 0.5
WIDEST = 60


@dataclass(frozen=True, slots=True)
class Device:
    """The device that a step computes on.

    Attributes
    ----------
    visible : its name in CUDA_VISIBLE_DEVICES; "" for the CPU
    """

    visible: str
    name: str


def devices() -> tuple[Device, ...]:
    """Every GPU that this process may use; the CPU if there is none."""
    # A step needs the name that CUDA_VISIBLE_DEVICES has for the GPU: on a shared machine number 0
    # may belong to another user.
    given = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    count = torch.cuda.device_count()
    names = given if any(given) else [str(k) for k in range(count)]
    found = tuple(
        Device(name, f"GPU {name} {torch.cuda.get_device_name(k)}")
        for k, name in enumerate(names[:count])
    )
    return found or (Device("", "CPU"),)


def carry_out(
    steps: Sequence[Step], work: Path, found: Sequence[Device], report: Callable[[str], None]
) -> None:
    """Do every step that is not done.

    Parameters
    ----------
    found : the result of `devices`; each has one step at a time

    Raises
    ------
    StageFailed
        If a step failed; all steps that do not depend on it have been done by then.
    """
    for folder in ("done", "logs"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    waiting = [step for step in steps if not _mark(work, step.name).exists()]
    if len(waiting) < len(steps):
        report(f"{len(steps) - len(waiting)} of {len(steps)} steps were done before")
    if not waiting:
        return
    running: set[str] = set()
    cluster = distributed.LocalCluster(
        n_workers=len(found),
        threads_per_worker=1,
        processes=False,
        # None would mean port 8787 on every address, with a warning if the port is taken.
        dashboard_address="127.0.0.1:0",
        protocol="inproc",
        # After Ctrl-C only limn writes a message.
        silence_logs=logging.CRITICAL,
    )
    try:
        with distributed.Client(cluster) as client:
            # The workers are threads of this process; each has one of the devices.
            device_of = dict(zip(sorted(client.scheduler_info()["workers"]), found, strict=True))
            futures = dict[str, distributed.Future[None]]()
            for step in waiting:
                futures[step.name] = client.submit(
                    _do,
                    step,
                    work,
                    device_of,
                    running,
                    [futures[name] for name in step.after if name in futures],
                    key=step.name,
                    pure=False,
                )
            _watch(waiting, futures, running, work, report)
    except BaseException:
        end_isolated()
        raise
    finally:
        cluster.close()


def _do(
    step: Step, work: Path, device_of: dict[str, Device], running: set[str], _: list[None]
) -> None:
    """Run a step in a worker; the last argument makes Dask wait for the steps before it."""
    device = device_of[distributed.get_worker().address]
    visible = {"CUDA_VISIBLE_DEVICES": device.visible} if device.visible else {}
    running.add(step.name)
    started = time.monotonic()
    try:
        run_isolated(
            step.work, step.arguments, _log(work, step.name), {**step.environment, **visible}
        )
    finally:
        running.discard(step.name)
    record = {
        "step": step.name,
        "seconds": round(time.monotonic() - started, 1),
        "device": device.name,
    }
    write_durably(_mark(work, step.name), json.dumps(record).encode())


def _watch(
    waiting: Sequence[Step],
    futures: dict[str, distributed.Future[None]],
    running: set[str],
    work: Path,
    report: Callable[[str], None],
) -> None:
    """Show a bar with the running steps and the time that is left; report each step that ends."""
    console = Console(emoji=False, highlight=False, soft_wrap=True)
    total = sum(step.cost for step in waiting)
    started, done, failed = time.monotonic(), 0.0, list[str]()
    ends_at = started
    pending = {step.name: step for step in waiting}
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(20),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        bar = bars.add_task("", total=total, left="")
        while pending:
            for name in [name for name in pending if futures[name].done()]:
                step, error = pending.pop(name), futures[name].exception()
                if error is not None:
                    failed.append(f"{name}: {error}")
                    report(f"NOT DONE {name}: {error}")
                    continue
                done += step.cost
                ends_at = _end(started, done, total)
                seconds = read_mark(work, name)["seconds"]
                number = len(waiting) - len(pending)
                report(
                    f"{number}/{len(waiting)} {name}: {in_words(seconds)}; "
                    f"{_left(ends_at) if pending else 'done'}"
                )
            lines = [f"{name}: {_last_line(_log(work, name))}" for name in sorted(running)]
            bars.update(
                bar,
                completed=done,
                description=escape(" | ".join(lines)),
                left=_left(ends_at) if done else "",
            )
            time.sleep(LOOK_S)
    if failed:
        raise StageFailed("; ".join(failed))


def read_mark(work: Path, name: str) -> dict[str, Any]:
    """The record of a finished step: "step", "seconds", "device"."""
    record: dict[str, Any] = json.loads(_mark(work, name).read_text(encoding="utf-8"))
    return record


def _mark(work: Path, name: str) -> Path:
    return work / "done" / f"{name.replace(' ', '-')}.json"


def _log(work: Path, name: str) -> Path:
    return work / "logs" / f"{name.replace(' ', '-')}.txt"


def _end(started: float, done: float, total: float) -> float:
    """The time when all steps will be done, from the finished ones; rough, for steps differ."""
    now = time.monotonic()
    return now + (now - started) * (total - done) / done


def _left(ends_at: float) -> str:
    return f"about {in_words(max(0.0, ends_at - time.monotonic()))} left"


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 2000))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    words = [line.split("\r")[-1].strip() for line in lines]
    return next((line for line in reversed(words) if line), "")[-WIDEST:]
