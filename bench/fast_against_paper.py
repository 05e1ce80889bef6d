"""The profile `fast` against `paper` on native phantoms that no network saw: DSC, 95 % HD, seconds.

`fast` may be a bundle's own profile where it is alike; the table says so organ by organ.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from side_by_side import native_trials, side_by_side

from limn.domain.shipped import EMBEDDED_BUNDLE
from limn.segment.bundle.bundle import open_bundle
from limn.segment.engine.ensemble import Ensemble


def main() -> None:
    """Run the scans that the folder does not hold yet; print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="scores and table; a killed run goes on there")
    parser.add_argument("--bundle", type=Path, default=EMBEDDED_BUNDLE)
    parser.add_argument("--scans", type=int, default=35, help="the first of the 35")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parsed = parser.parse_args()
    bundle = open_bundle(parsed.bundle)
    ways = {
        "paper": Ensemble.load(bundle, parsed.device, "paper"),
        "fast": Ensemble.load(bundle, parsed.device, "fast"),
    }
    print(side_by_side(ways, native_trials(parsed.scans), parsed.out))


if __name__ == "__main__":
    main()
