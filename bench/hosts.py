"""A node on five hosts in network namespaces: killed workers and schedulers, cut links.

Two hosts receive, two contour (the network thresholds), one schedules; certificates come from
``limn certs``, the planning system is dcmtk's storescp. Needs root, for the namespaces.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

from tests.support.node.hosts import endure


def main() -> int:
    """Run it; 1 if a scan was lost, delivered twice or mixed up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=4, help="how often each of worker, scheduler and link fails"
    )
    parsed = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("hosts").setLevel(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="limn-hosts-") as folder:
        found, _ = endure(Path(folder), parsed.rounds)
    print(found)
    return 0 if found.sound else 1


if __name__ == "__main__":
    sys.exit(main())
