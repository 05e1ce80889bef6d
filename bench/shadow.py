"""What a shadow bundle costs a live scan: door to door with and without one, in turn.

A round is a node without a shadow, then one with: the embedded bundle delivers, a copy of it under
another name is the shadow. Each scan comes while the shadow draws the one before, at a random
moment of its load or its inference: the worst case. The node without a shadow waits as long
between its scans. Rounds are appended to a file, so that a long measurement may be made in parts;
the table is over all rounds of the file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

# Between a structure set and the next scan, where no shadow begins.
PAUSE_S = 12.0
# After the shadow has begun: some seconds of loading, then of inference.
LONGEST_S = 10.0


def challenger(folder: Path) -> Path:
    """The embedded bundle under another version, so with another hash."""
    from limn.domain.shipped import MANIFEST
    from limn.segment.bundle.bundle import write_manifest
    from tests.conftest import BUNDLE

    shutil.copytree(BUNDLE, folder)
    head = (folder / MANIFEST).read_text(encoding="utf-8").split("\n[files]\n")[0]
    write_manifest(folder, re.sub(r"(?m)^version = .*$", 'version = "challenger"', head))
    return folder


def measure(folder: Path, shadow: Path | None, scans: int, number: int) -> list[dict[str, float]]:
    """Door to door of each scan but the first, and whether it met the shadow at work."""
    from limn.dicom.ct import CtIdentity
    from limn.domain.geometry import SpacingMm
    from limn.phantom.anatomy import conceive
    from limn.phantom.scanner import Scanner, scan
    from tests.conftest import BUNDLE, one_fold, write_series
    from tests.support.node.running import Node, wait_for

    node = Node(folder, '[[destination]]\nkind = "folder"\nname = "tps"\nfolder = "tps"\n')
    text = node.config.read_text().replace(str(one_fold()), str(BUNDLE))
    if shadow is not None:
        text = text.replace("[model]\n", f'[model]\nshadow = "{shadow}"\n')
    node.config.write_text(text)
    volume, _ = scan(conceive(7), Scanner(SpacingMm(0.3, 0.3, 0.3), (96, 84, 92)), 7)
    chance = random.Random(number)  # noqa: S311 - repeatable
    found = []
    node.start()
    try:
        for k in range(scans + 1):
            # No part of a UID begins with a zero.
            series = f"{number + 1}{k:03d}"
            identity = CtIdentity(f"M{series}", f"2.25.77.{series}", ("20260101", "120000"))
            write_series(volume, folder / "series" / series, identity)
            before = node.log().count("gives way")
            sent = node.storescu(folder / "series" / series)
            if sent.returncode:
                raise RuntimeError(sent.stderr)
            row = node.wait_row(f"M{series}")
            met = node.log().count("gives way") > before
            if k:
                found.append({"s": float(row["door_to_door_s"]), "met": float(met)})
            begun = node.log().count(" scans are due")
            if shadow is not None and k < scans:
                wait_for(lambda n=begun: node.log().count(" scans are due") > n, 120, node.explain)
                time.sleep(chance.uniform(0.0, LONGEST_S))
            else:
                time.sleep(PAUSE_S if k < scans else 0.0)
    finally:
        node.stop()
    return found


def main() -> None:
    """Measure the rounds that are asked for, then print the table over all in the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scans", type=int, default=6)
    parser.add_argument("--to", type=Path, default=Path("build/shadow.jsonl"))
    parsed = parser.parse_args()
    parsed.to.parent.mkdir(parents=True, exist_ok=True)
    done = len(parsed.to.read_text().splitlines()) if parsed.to.exists() else 0
    for number in range(done // 2, done // 2 + parsed.rounds):
        with tempfile.TemporaryDirectory(prefix="limn-shadow-") as name:
            for which, shadow in (("without", None), ("with", challenger(Path(name, "new")))):
                found = measure(Path(name, which), shadow, parsed.scans, 2 * number + bool(shadow))
                load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
                line = {"shadow": which, "scans": found, "load": load}
                with parsed.to.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(json.dumps(line), flush=True)
    show([json.loads(line) for line in parsed.to.read_text().splitlines()])


def show(rounds: list[dict]) -> None:
    """Median and quartiles of both, and their ratio."""
    medians = {}
    for which in ("without", "with"):
        scans = [scan for each in rounds if each["shadow"] == which for scan in each["scans"]]
        seconds = [scan["s"] for scan in scans]
        low, high = np.percentile(seconds, (25, 75))
        medians[which] = statistics.median(seconds)
        met = int(sum(scan["met"] for scan in scans))
        print(
            f"{which:8} {medians[which]:.3f} s (quartiles {low:.3f} to {high:.3f}), "
            f"{len(seconds)} scans, {met} of them ended a drawing"
        )
    print(f"with / without: {medians['with'] / medians['without']:.3f}; {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
