"""``kill -9`` at random at a study of all five systems: are its tables those of an unbroken one.

A study of four phantoms and tiny networks runs once unbroken. A second one is killed, started again
and killed again, wherever it is; what it ends with is held against the first, byte by byte. Times
differ, so Table 4 does too, and tables.md, which has it, and steps.csv.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from subprocess import Popen, TimeoutExpired

import numpy as np

from limn.lab.words import TIMES
from tests.support.lab.small_study import WHOLE, started, written

TIMED = {"table4.csv", "table4.tex", "tables.md", "steps.csv"}
# From before the command has begun a step to beyond a step or two.
SHORTEST_S, LONGEST_S = 8.0, 90.0


def main() -> int:
    """Run both; 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--keep", type=Path, help="leave everything here")
    parsed = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="limn-study-", dir=parsed.keep))
    config = written(folder / "study", WHOLE)
    unbroken, broken = folder / "unbroken", folder / "broken"
    began = time.monotonic()
    _finish(started(config, unbroken))
    print(f"unbroken: {time.monotonic() - began:.0f} s", flush=True)
    kills = _kill(config, broken, parsed.kills, np.random.default_rng(parsed.seed))
    _finish(started(config, broken))
    same = _compare(unbroken / "results", broken / "results", kills)
    if parsed.keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if same else 1


def _kill(config: Path, out: Path, kills: int, rng: np.random.Generator) -> int:
    """Start and kill; how often, for a study may be through before."""
    for number in range(1, kills + 1):
        process = started(config, out)
        after_s = rng.uniform(SHORTEST_S, LONGEST_S)
        try:
            process.communicate(timeout=after_s)
        except TimeoutExpired:
            running = sorted(path.stem for path in (out / "logs").glob("*") if _at_work(path))
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            done = len(list((out / "done").glob("*.json")))
            print(
                f"kill {number} after {after_s:.0f} s, {done} steps done; it was at "
                f"{', '.join(running) or 'the data'}",
                flush=True,
            )
            continue
        print(f"through before kill {number}", flush=True)
        return number - 1
    return kills


def _at_work(log: Path) -> bool:
    """Whether a step is at work: it is not done, and its log is there."""
    return not (log.parents[1] / "done" / f"{log.stem}.json").exists()


def _finish(process: Popen[str]) -> None:
    said, _ = process.communicate()
    if process.returncode:
        sys.exit(f"the study failed:\n{said}")


def _compare(first: Path, second: Path, kills: int) -> bool:
    names = sorted({path.name for own in (first, second) for path in own.iterdir()} - TIMED)
    other = [
        name
        for name in names
        if not ((first / name).exists() and (second / name).exists())
        or _without_times(first / name) != _without_times(second / name)
    ]
    print(
        f"{kills} kills: {len(names) - len(other)} of {len(names)} tables and pictures are the "
        f"same, byte by byte{'; others: ' + ', '.join(other) if other else ''}"
    )
    return not other


def _without_times(path: Path) -> bytes:
    """A file; of the scores, those that are no times."""
    lines = path.read_bytes().splitlines(keepends=True)
    times = tuple(f",{name},".encode() for name in TIMES)
    return b"".join(line for line in lines if not any(time in line for time in times))


if __name__ == "__main__":
    sys.exit(main())
