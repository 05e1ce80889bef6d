"""Damaged files of every format that limn opens: each is refused by name, or read; none ends limn.

python bench/fuzz_files.py --cases 2000 --seed 1
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import re
import resource
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK
from rich.console import Console

from limn.dicom.ct import CtIdentity, ct_instances
from limn.domain.errors import LimnError
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Volume
from limn.formats.label_files import image_of
from limn.node.batch.source import opened
from tests.support.scanner_files import write_inveon, write_sections

SHAPE_ZYX = (6, 20, 22)
SPACING = SpacingMm(0.3, 0.25, 0.2)
# A child that asks for more gets a MemoryError; a whole mouse needs less.
MOST_BYTES = 6 * 2**30
LONGEST_S = 20.0
NUMBER = re.compile(rb"-?\d+(\.\d+)?")
ODD_NUMBERS = (b"0", b"-1", b"nan", b"inf", b"1e30", b"99999999999999999999", b"65536", b"", b"7.5")


def make_all(folder: Path) -> dict[str, Path]:
    """A sound scan in every format; of each the file or folder that is opened."""
    rng = np.random.default_rng(5)
    volume = Volume(
        rng.integers(-1000, 1500, SHAPE_ZYX).astype(np.float32),
        axial_grid(SHAPE_ZYX, SPACING, np.zeros(3)),
    )
    hu = volume.hu_zyx.astype("<i2")
    made = {}
    for name in ("a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.mhd"):
        made[name] = folder / name.replace(".", "-") / name
        made[name].parent.mkdir()
        SimpleITK.WriteImage(image_of(hu, volume.grid), str(made[name]))
    made["zip"] = folder / "zip" / "a.zip"
    made["zip"].parent.mkdir()
    with zipfile.ZipFile(made["zip"], "w", zipfile.ZIP_DEFLATED) as packed:
        identity = CtIdentity("M1", "2.25.9", ("20260101", "120000"))
        for k, ds in enumerate(ct_instances(volume, identity)):
            buffer = io.BytesIO()
            ds.save_as(buffer, enforce_file_format=True)
            packed.writestr(f"{k}.dcm", buffer.getvalue())
    grey = rng.integers(0, 255, SHAPE_ZYX).astype(np.uint8)
    for ending in ("tif", "bmp", "png", "jpg"):
        made[f"skyscan {ending}"] = write_sections(folder / ending, grey, 50.0, ending).parent
    made["inveon"] = write_inveon(folder / "inveon", hu, SPACING.zyx)
    return made


def damaged(contents: bytes, rng: np.random.Generator) -> bytes:
    """The contents after one to three kinds of damage."""
    for _ in range(int(rng.integers(1, 4))):
        if not contents:
            return contents
        contents = _KINDS[int(rng.integers(len(_KINDS)))](contents, rng)
    return contents


def _cut(contents: bytes, rng: np.random.Generator) -> bytes:
    return contents[: int(rng.integers(0, len(contents)))]


def _flip(contents: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(contents)
    # Headers stand at the beginning.
    reach = min(len(changed), 512) if rng.random() < 0.7 else len(changed)
    for at in rng.integers(0, reach, int(rng.integers(1, 9))):
        changed[at] = int(rng.integers(0, 256))
    return bytes(changed)


def _blank(contents: bytes, rng: np.random.Generator) -> bytes:
    at, size = int(rng.integers(0, len(contents))), int(rng.integers(1, 200))
    fill = bytes([int(rng.choice((0, 255)))])
    return contents[:at] + fill * len(contents[at : at + size]) + contents[at + size :]


def _renumber(contents: bytes, rng: np.random.Generator) -> bytes:
    found = list(NUMBER.finditer(contents[:4096]))
    if not found:
        return contents
    chosen = found[int(rng.integers(len(found)))]
    odd = ODD_NUMBERS[int(rng.integers(len(ODD_NUMBERS)))]
    return contents[: chosen.start()] + odd + contents[chosen.end() :]


def _twice(contents: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(0, len(contents)))
    return contents[:at] + contents[at // 2 :]


_KINDS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    *(_cut, _flip, _flip, _blank, _renumber, _renumber, _twice),
)


def try_cases(kind: str, source: Path, first: int, count: int, seed: int, at: Path) -> Counter[str]:
    """Open so many damaged copies; the file ``at`` has the number of the case that is tried."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    warnings.simplefilter("ignore")
    files = sorted(source.iterdir()) if source.is_dir() else sorted(source.parent.iterdir())
    sound = {path: path.read_bytes() for path in files}
    outcomes: Counter[str] = Counter()
    for case in range(first, first + count):
        rng = np.random.default_rng((seed, case))
        victim = files[int(rng.integers(len(files)))]
        at.write_text(f"{kind} case {case}, {victim.name}")
        victim.write_bytes(damaged(sound[victim], rng))
        began_s = time.monotonic()
        outcomes[_outcome(source)] += 1
        if time.monotonic() - began_s > LONGEST_S:
            outcomes[f"FAILED: slow: {at.read_text()}"] += 1
        victim.write_bytes(sound[victim])
    return outcomes


def _outcome(source: Path) -> str:
    lie = "SPL" if source.is_dir() or source.suffix == ".img" else ""
    try:
        with opened(source, lie, None, Console(file=io.StringIO())) as scan:
            return "read" if scan.instances else "FAILED: no instance"
    except LimnError as error:
        named = (
            source.name in str(error)
            or str(source.parent) in str(error)
            or "limn-scan-" in (str(error))
        )
        return "refused" if named or source.suffix == ".zip" else f"FAILED: no name: {error}"
    except Exception as error:  # noqa: BLE001 - what this script looks for
        return f"FAILED: {type(error).__name__}: {str(error)[:100]}"


def main() -> int:
    """Run every format in a child of its own; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="of each format")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="one format")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="limn-fuzz-") as temporary:
        made = make_all(Path(temporary))
        if options.only not in (None, *made):
            sys.exit(f"--only {options.only}: one of {', '.join(made)} expected")
        for kind, source in made.items():
            if options.only not in (None, kind):
                continue
            if _outcome(source) != "read":
                sys.exit(f"{kind}: the sound file is not read")
            at = Path(temporary, "at")
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                job = pool.apply_async(
                    try_cases, (kind, source, 0, options.cases, options.seed, at)
                )
                try:
                    outcomes = job.get(timeout=60.0 + options.cases * 0.5)
                except multiprocessing.TimeoutError:
                    outcomes = Counter({f"FAILED: ended or hangs at {at.read_text()}": 1})
            bad = {text: n for text, n in outcomes.items() if text.startswith("FAILED")}
            failed += sum(bad.values())
            print(
                f"{kind:14} {options.cases} cases: {outcomes['refused']} refused by name, "
                f"{outcomes['read']} read, {sum(bad.values())} failed",
                flush=True,
            )
            for text, count in list(bad.items())[:10]:
                print(f"    {count} x {text}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
