"""``python tests/support/coverage_by_room.py``: share of each room that a measured run reached."""

import sys
from collections import Counter
from pathlib import Path, PurePath

import coverage

SOURCE = Path(__file__).parents[2] / "src" / "limn"
HOUSES = {"node", "lab", "segment"}


def room_of(module: PurePath) -> str:
    """The folder of a module below ``src/limn``; ``node`` for a file that lies in node itself."""
    first, *rest = module.parent.parts or ("limn",)
    return "/".join([first, *rest[:1]]) if first in HOUSES else first


def main() -> None:
    """Print a line for each room and one for the whole."""
    measured = coverage.Coverage()
    measured.load()
    lines: Counter[str] = Counter()
    reached: Counter[str] = Counter()
    for path in sorted(SOURCE.rglob("*.py")):
        _, statements, _, missing, _ = measured.analysis2(str(path))
        room = room_of(path.relative_to(SOURCE))
        for name in (room, "all rooms"):
            lines[name] += len(statements)
            reached[name] += len(statements) - len(missing)
    for name in (*sorted(set(lines) - {"all rooms"}), "all rooms"):
        share = 100 * reached[name] / max(1, lines[name])
        sys.stdout.write(f"{name:20}{lines[name]:6} statements {share:5.1f} %\n")


if __name__ == "__main__":
    main()
