"""Mutated files at the intake and the decoder, mutated PDUs at the socket.

python bench/fuzz.py --cases 100000 --minutes 10 --seed 1
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path

from tests.support.node.fuzzing import Limits, Run


def main() -> int:
    """Run the phases; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="a fifth at the socket")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("intake", "decoder", "socket"))
    parser.add_argument("--keep", type=Path, help="folder for cases that fail")
    options = parser.parse_args()
    # Refusals are counted; a hundred thousand log lines would help no reader.
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    shares = {"intake": 0.6, "decoder": 0.2, "socket": 0.2}
    phases = [name for name in shares if options.only in {None, name}]
    tallies = []
    with tempfile.TemporaryDirectory(prefix="limn-fuzz-") as temporary:
        run = Run(options.keep or Path(temporary), options.seed)
        run.folder.mkdir(parents=True, exist_ok=True)
        for name in phases:
            share = shares[name] if len(phases) > 1 else 1.0
            limits = Limits(
                int(options.cases * share), time.monotonic() + options.minutes * 60 * share
            )
            tally = {
                "intake": run.at_the_intake,
                "decoder": run.at_the_decoder,
                "socket": run.at_the_socket,
            }[name](limits)
            tallies.append(tally)
            print(tally.line(), flush=True)
            for failure in tally.failures[:20]:
                print(f"  {failure}")
    failed = sum(len(tally.failures) for tally in tallies)
    cases = sum(tally.cases for tally in tallies)
    print(f"seed {options.seed}: {cases} cases, {failed} failures; a good series passes after them")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
