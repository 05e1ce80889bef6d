"""Learning from few, measured: a site whose mice no bundle saw, with 3, 5 and 10 of its animals.

    python bench/adapt.py OUT                      # all of the table: days on two cores
    python bench/adapt.py OUT --counts 3,5 --bound 0 --tests 4 --steps 60 --one-fold

For each number of animals the bundle is adapted (`limn lab adapt`) and scored on animals of the
site that test alone, and on the old test sets of phantoms. `--bound` animals give the upper bound.
`--organs seven` has liver and kidneys too, which the four-organ bundle does not know; the import of
more organs than four must be there. Everything is kept in OUT: a killed run goes on.
"""

import argparse
import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from openvino import Core

from limn.domain.files import write_durably
from limn.domain.shipped import EMBEDDED_BUNDLE, MANIFEST
from limn.lab.adapt.adapt import BUNDLE, adapt
from limn.lab.adapt.budget import AdaptOptions
from limn.lab.adapt.scoring import AFTER, BEFORE, TESTED
from limn.lab.data.dataset import MANIFEST as DATASET
from limn.lab.data.dataset import import_folder
from limn.lab.measure.evaluate import Trial, evaluate, read_rows
from limn.lab.phantoms.other_site import (
    FIRST_SEED,
    FIRST_TEST,
    FOUR,
    GROUP,
    SEVEN,
    OtherSite,
    split_toml,
    write_site,
)
from limn.lab.train.testsets import cohort_trials
from limn.segment.bundle.bundle import open_bundle, write_manifest
from limn.segment.engine.ensemble import Ensemble

GROUPS = 5


def main() -> None:
    """Adapt, score, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--bundle", type=Path, default=EMBEDDED_BUNDLE)
    parser.add_argument("--counts", default="3,5,10")
    parser.add_argument("--bound", type=int, default=50, help="0 for none")
    parser.add_argument("--tests", type=int, default=10, help="animals that test alone")
    parser.add_argument("--old", type=int, default=70, help="scans of the old test sets")
    parser.add_argument("--organs", choices=("four", "seven"), default="four")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--hours", type=float, default=8.0)
    parser.add_argument("--phantoms", type=int)
    parser.add_argument("--scored", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--one-fold", action="store_true", help="the bundle's first fold alone")
    given = parser.parse_args()
    counts = [int(count) for count in given.counts.split(",")]
    counts += [given.bound] if given.bound else []
    bundle = first_fold(given.bundle, given.out) if given.one_fold else given.bundle
    organs = FOUR if given.organs == "four" else SEVEN
    options = AdaptOptions(
        steps=given.steps,
        hours=given.hours,
        phantoms=given.phantoms,
        scored=given.scored,
        workers=given.workers,
    )
    base = given.out / given.organs
    for count in counts:
        data = data_of(base, OtherSite(organs), count, max(counts), given.tests)
        started = time.monotonic()
        adapt(bundle, data, base / f"adapted-{count}", options, say)
        note_time(base / f"adapted-{count}", time.monotonic() - started)
    old = {0: old_scores(bundle, base / "old-0", given.old)}
    old |= {
        count: old_scores(base / f"adapted-{count}" / BUNDLE, base / f"old-{count}", given.old)
        for count in counts
    }
    text = table(base, counts, given.bound, old)
    write_durably(base / "table.md", text.encode())
    say(text)


def say(line: str) -> None:
    """Print at once; of a module, so that processes know it."""
    print(f"{datetime.now().astimezone():%H:%M:%S} {line}", flush=True)


def first_fold(bundle: Path, out: Path) -> Path:
    """The bundle's first fold alone, without judge and sample."""
    folder = out / "one-fold"
    if not (folder / MANIFEST).exists():
        left_out = shutil.ignore_patterns("fold_[1-9]", "sample.npz", "judge.npz")
        shutil.copytree(bundle, folder, ignore=left_out, dirs_exist_ok=True)
        head = (bundle / MANIFEST).read_text(encoding="utf-8").split("\n[files]\n")[0]
        head = re.sub(r"(?m)^(sample|judge) = .*$", "", head)
        write_manifest(folder, re.sub(r"(?m)^folds = .*$", "folds = [0]", head))
    return folder


def data_of(base: Path, site: OtherSite, count: int, most: int, tests: int) -> Path:
    """The data set of some animals that teach, and of all that test."""
    data = base / f"data-{count}"
    if (data / DATASET).exists():
        return data
    teach = {f"t{k:02d}": FIRST_SEED + k for k in range(most)}
    test = {f"x{k:02d}": FIRST_TEST + k for k in range(tests)}
    scans, layout = write_site(base / "site", site, teach | test)
    names = [f"{GROUP}-{animal}" for animal in teach][:count]
    groups = [list(map(str, own)) for own in np.array_split(names, min(GROUPS, count))]
    split = base / f"split-{count}.toml"
    write_durably(split, split_toml(groups, [f"{GROUP}-{animal}" for animal in test]).encode())
    import_folder(scans, data, layout, split, say)
    return data


def note_time(folder: Path, seconds: float) -> None:
    """Add the time of this run to that of the runs before it."""
    path = folder / "seconds.txt"
    before = float(path.read_text()) if path.exists() else 0.0
    write_durably(path, f"{before + seconds:.0f}\n".encode())


def old_scores(bundle: Path, folder: Path, scans: int) -> Mapping[str, float]:
    """Mean DSC of each organ on some scans of the old test sets, spread over both."""
    if not scans:
        return {}
    opened = open_bundle(bundle)
    every: list[Trial] = cohort_trials(wide=False)
    picks = np.unique(np.linspace(0, len(every) - 1, scans).astype(int))
    trials = [every[pick] for pick in picks]
    rows = read_rows(evaluate(trials, Ensemble.load(opened, "cpu", opened.profile), folder, say))
    return {
        organ: float(np.mean([float(row["dsc"]) for row in rows if row["organ"] == organ]))
        for organ in dict.fromkeys(row["organ"] for row in rows)
    }


def test_means(folder: Path, when: str) -> Mapping[str, float]:
    """Mean DSC of each organ over the animals that test."""
    found: dict[str, list[float]] = {}
    for path in sorted((folder / "work" / "scores" / when).glob(f"{TESTED} *.json")):
        for score in json.loads(path.read_text(encoding="utf-8")):
            found.setdefault(score["organ"], []).append(score["dsc"])
    return {organ: float(np.mean(dscs)) for organ, dscs in found.items()}


def table(
    base: Path, counts: Sequence[int], bound: int, old: Mapping[int, Mapping[str, float]]
) -> str:
    """The issue's table: before, after, share of the gap, what was forgotten, time."""
    processor = Core().get_property("CPU", "FULL_DEVICE_NAME")
    before = test_means(base / f"adapted-{counts[0]}", BEFORE)
    after = {count: test_means(base / f"adapted-{count}", AFTER) for count in counts}
    lines = [
        f"{datetime.now().astimezone():%Y-%m-%d %H:%M}, {processor}",
        "",
        f"| DSC on test animals | before | {' | '.join(f'{count} animals' for count in counts)} |",
        "|---|---|" + "---|" * len(counts),
    ]
    for organ in before:
        cells = [f"{before[organ]:.3f}"]
        for count in counts:
            cell = f"{after[count][organ]:.3f}"
            gap = after[bound][organ] - before[organ] if bound else 0.0
            if gap > 0 and count != bound:
                cell += f" ({(after[count][organ] - before[organ]) / gap:.0%} of the gap)"
            cells.append(cell)
        lines.append(f"| {organ} | {' | '.join(cells)} |")
    lines += ["", f"| DSC on old test sets | before | {' | '.join(map(str, counts))} |"]
    lines.append("|---|---|" + "---|" * len(counts))
    for organ, dsc in old[0].items():
        own = " | ".join(
            f"{old[count][organ]:.4f} ({old[count][organ] - dsc:+.4f})" for count in counts
        )
        lines.append(f"| {organ} | {dsc:.4f} | {own} |")
    times = [float((base / f"adapted-{count}" / "seconds.txt").read_text()) for count in counts]
    lines += [
        "",
        "Time: "
        + ", ".join(
            f"{count} animals {s / 60:.0f} min" for count, s in zip(counts, times, strict=True)
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
