"""The paper's study from a TOML to its tables and figures; resumable."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from limn.domain.errors import ConfigWrong
from limn.domain.files import replacement, write_durably
from limn.lab.data.dataset import (
    MANIFEST,
    SPLIT,
    Entry,
    differences_from_paper,
    import_folder,
    read_dataset,
)
from limn.lab.data.organs import DatasetOrgans, read_organs
from limn.lab.data.readers import read_ct
from limn.lab.data.split import read_split
from limn.lab.measure.scores import read_scores
from limn.lab.phantoms.phantom_dataset import show_cohort
from limn.lab.process.folder_lock import folder_lock
from limn.lab.process.timed import timed_on
from limn.lab.report.overlays import draw_case
from limn.lab.report.summary import by_organ, cases
from limn.lab.report.tables import write_tables
from limn.lab.study.config import StudyConfig, read_study
from limn.lab.study.jobs import Folders, read_drawing
from limn.lab.study.run import carry_out, devices, read_mark
from limn.lab.study.steps import Step, steps
from limn.lab.systems.nnunet_plans import Preset
from limn.lab.words import AIMOS, FLAT, LIMN, REFERENCE_SYSTEM, SETS
from limn.segment.bundle.bundle import open_bundle

STUDY = "study.json"
RESULTS = "results"
STEPS_CSV = "steps.csv"
# nnunetv2 rotates patches by up to 180 degrees if their length is at most so many widths.
NEARLY_SQUARE = 1.5


def reproduce(
    config_path: Path, work: Path, source: Path | None, report: Callable[[str], None]
) -> Path:
    """Do the rest of a study, and return the folder with its tables and figures.

    Parameters
    ----------
    work : folder of everything that the study makes; a second call goes on there
    source : folder of the scans, instead of the configuration's own

    Raises
    ------
    ConfigWrong
        If the configuration, the data or the folder can't be used.
    StageFailed
        If a step failed; its log is named.
    """
    config = read_study(config_path, source)
    if config.source is not None and not config.source.is_dir():
        msg = f"{config.source} is no folder; name the folder of the scans by --data FOLDER"
        raise ConfigWrong(msg)
    try:
        with folder_lock(work, "run is at this study"):
            return _reproduce(config, Folders(work), report)
    except KeyboardInterrupt:
        report(f"stopped; the same command goes on in {work}")
        raise


def _reproduce(config: StudyConfig, folders: Folders, report: Callable[[str], None]) -> Path:
    _refuse_another(config, folders.work)
    entries = _data(config, folders, report)
    organs = read_organs(folders.data)
    planned = steps(config, entries, organs, folders)
    systems = (*config.systems, LIMN)
    for system in systems:
        folders.labels(system, "").parent.mkdir(parents=True, exist_ok=True)
    carry_out(planned, folders.work, devices(), report)
    results = folders.work / RESULTS
    testing = [own for own in entries if own.split != "train"]
    timed = timed_on({name: [folders.times(name, own.scan) for own in testing] for name in systems})
    write_tables(folders.scores, results, report, described(config, entries), timed)
    write_durably(results / folders.scores.name, folders.scores.read_bytes())
    _write_steps(planned, folders.work, results / STEPS_CSV)
    for path in _overlays(systems, testing, organs, folders, results):
        report(f"drawn: {path}")
    sealed, naming = open_bundle(folders.bundle), config.naming
    if (sealed.name, sealed.version) != (naming.name, naming.version):
        report(
            f"WARNING {folders.bundle} was sealed as {sealed.name} {sealed.version} and keeps that "
            "name; to change it, delete the bundle and done/predict-limn.json, and start again"
        )
    report(
        f"done: {results / 'tables.md'}; to use the folds in a node: "
        f"limn models pack {shlex.quote(str(folders.bundle))} -o {sealed.name}.zip"
    )
    return results


def described(config: StudyConfig, entries: Sequence[Entry]) -> str:
    """Compare a study with the paper's own, as Markdown."""

    def counted(split: str) -> str:
        own = [entry for entry in entries if entry.split == split]
        return f"{len(own)} scans of {len({entry.animal for entry in own})} animals"

    folds = len({entry.fold for entry in entries if entry.split == "train"})
    edges = sorted({entry.spacing_mm for entry in entries})
    lines = [
        f"Trained on {counted('train')} in {folds} folds (the paper: 105 scans of 15 animals in "
        f"5); test set 1: {counted('test1')} (35 of 5); test set 2: {counted('test2')} (35 of 8). "
        f"Voxels, mm: {', '.join(edges)} (0.14). "
        + ("Phantoms, not animals." if any(entry.truth for entry in entries) else ""),
        *(f"- Unlike the paper: {line}." for line in differences_from_paper(entries)),
        "- No system is shown mirror images when it predicts; nnU-Net's own default does that, and "
        "the paper does not say that it was changed.",
        "- nnU-Net's rows are of its own predictor, which averages the folds' logits; the paper "
        "says that probabilities were averaged, as AIMOS and limn's engine do here.",
        "- Run again on a GPU, or with nnU-Net's own trainer, which sets no seed, networks differ "
        "and so do these figures, within what luck does.",
    ]
    rule = (
        "AdamW, bf16 where the CPU has it, every second patch around an organ, no mirror images"
        if config.short
        else "nnU-Net's own trainer"
    )
    for name, preset in config.nnunet.items():
        patch = " x ".join(str(n) for n in preset.patch)
        lines.append(
            f"- {name}: {rule}; {preset.epochs} epochs of {preset.iterations} (the paper's plan: "
            f"1000 of 250), batch {preset.batch}, patch {patch} at {preset.spacing_mm} mm, "
            f"{preset.features[0]} to {preset.features[-1]} features{_rotation(name, preset)}"
        )
    if own := config.aimos:
        lines.append(
            f"- {AIMOS}, rebuilt: {own.steps} steps, batch {own.batch}, {own.features[0]} to "
            f"{own.features[-1]} features (the paper: 32 to 768)"
        )
    return "\n".join(lines) + "\n"


def _rotation(name: str, preset: Preset) -> str:
    """How far nnU-Net rotates slices in training; nothing for blocks."""
    if name != FLAT:
        return ""
    nearly_square = max(preset.patch) <= NEARLY_SQUARE * min(preset.patch)
    return (
        f", slices turned by up to {180 if nearly_square else 15} degrees, as nnU-Net does with "
        "such patches (blocks: 30)"
    )


def _refuse_another(config: StudyConfig, work: Path) -> None:
    """Refuse a folder that belongs to another study.

    Raises
    ------
    ConfigWrong
        The text names every difference.
    """
    path, wanted = work / STUDY, config.digest()
    if not path.exists():
        return
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path} can't be read ({error}); give another folder, or delete this one"
        raise ConfigWrong(msg) from error
    if different := [name for name in wanted if kept.get(name) != wanted[name]]:
        msg = (
            f"{work} belongs to a study with another {' and '.join(different)}; give another "
            "folder, or delete this one to start again"
        )
        raise ConfigWrong(msg)


def _data(
    config: StudyConfig, folders: Folders, report: Callable[[str], None]
) -> tuple[Entry, ...]:
    """Import the data set. The settings are written after it, so a wrong layout can be mended."""
    study = folders.work / STUDY
    if not (study.exists() and (folders.data / MANIFEST).exists()):
        source = config.source
        if source is None and config.cohort is not None:
            source = folders.work / "cohort"
            show_cohort(source, config.cohort, None)
        if source is None:
            raise ConfigWrong("data.source: a folder of scans is expected")
        import_folder(source, folders.data, config.layout, config.split, report)
    entries = read_dataset(folders.data)
    folds = {own.fold for own in entries if own.split == "train"}
    if len(folds) < 2 or not any(own.split == "test1" for own in entries):
        msg = f"{folders.data}: two folds and a test set 1 are needed; mend the split"
        raise ConfigWrong(msg)
    wanted = read_split(folders.data / SPLIT).test2
    if wanted and not any(own.split == "test2" for own in entries):
        msg = (
            f"{folders.data}: the split names {', '.join(wanted)} for test set 2, and none of them "
            "is here; mend the split or the layout (test2 = [] for a study without)"
        )
        raise ConfigWrong(msg)
    if not study.exists():
        write_durably(study, (json.dumps(config.digest(), indent=1) + "\n").encode())
    return entries


def _write_steps(planned: Sequence[Step], work: Path, path: Path) -> None:
    with replacement(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        lines = csv.DictWriter(file, ("step", "seconds", "device"), lineterminator="\n")
        lines.writeheader()
        lines.writerows(read_mark(work, step.name) for step in planned)


def _overlays(
    systems: Sequence[str],
    entries: Sequence[Entry],
    organs: DatasetOrgans,
    folders: Folders,
    results: Path,
) -> list[Path]:
    """Draw the best, intermediate and worst scan of each test set with every system's contours.

    The scores of the reference system choose the scans, as in the paper.
    """
    scores = read_scores(folders.scores)
    entry_of = {own.scan: own for own in entries}
    paths = []
    for test_set, words in SETS.items():
        by_system = {name: by_organ(scores, test_set, name) for name in systems}
        for which, scan in cases(by_system[REFERENCE_SYSTEM]).items():
            own = entry_of[scan]
            volume = read_ct(folders.data / own.ct, "")
            path = results / f"overlay-{test_set}-{which}.png"
            draw_case(
                volume,
                read_drawing(folders.data / own.observer1, volume, organs.organs),
                {
                    name: read_drawing(folders.labels(name, scan), volume, organs.organs)
                    for name in systems
                },
                {name: found.get(scan, {}) for name, found in by_system.items()},
                f"{words}: {which} scan, {scan}",
                path,
            )
            paths.append(path)
    return paths
