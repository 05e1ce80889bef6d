"""``kill -9`` at random at every process of a node in turn, and the sums at the end.

The worker's network thresholds, all else is the node as a site runs it; the planning system is
dcmtk's storescp. Four ways: as it is; with an association for each slice, so that half a series
looks whole between two of them; with the planning system killed for a while; with everything that
the node writes on a disk of 64 MB that fills up (needs root, for the mount).
"""

from __future__ import annotations

import argparse
import logging
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.node.siege import besiege, mounted

WAYS = ("plain", "per-slice", "tps-down", "disk-full")


def main() -> int:
    """Run the ways that were asked for; 1 if one was not sound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ways", nargs="*", choices=[*WAYS, []])
    parser.add_argument("--scans", type=int, default=200)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--keep", type=Path, help="leave everything here")
    parsed = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("siege").setLevel(logging.INFO)
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    sound = True
    for way in parsed.ways or WAYS:
        print(f"--- {way}: {parsed.scans} scans, seed {parsed.seed}", flush=True)
        folder = Path(tempfile.mkdtemp(prefix=f"limn-{way}-", dir=parsed.keep))
        disk = mounted(folder / "disk") if way == "disk-full" else None
        if way == "disk-full" and disk is None:
            print("skipped: only root can mount a small disk here")
            continue
        try:
            found = besiege(
                folder,
                parsed.scans,
                parsed.kills,
                parsed.seed,
                tps_down=way == "tps-down",
                disk=disk,
                per_slice=way == "per-slice",
            )
            sound &= found.sound
        finally:
            if disk is not None and not parsed.keep:
                subprocess.run(["/bin/umount", "-l", str(disk)], check=False)
            if parsed.keep is None:
                shutil.rmtree(folder, ignore_errors=True)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
