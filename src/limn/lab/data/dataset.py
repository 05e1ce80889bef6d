"""Our own data set: contoured scans of animals in one folder, whoever scanned and contoured them.

``dataset.csv`` names every scan, whose it is and what it is for; ``split.toml`` is the division of
animals that it follows; ``scans/NAME/`` holds ``ct.nii.gz`` and ``observer1.nii.gz`` to 3, of a
phantom also ``truth.nii.gz``, all on one grid with array axes S, P, L and in the numbers of the
phantom's labels (5: both lungs as one). The manifest comes last: a folder that has one is whole.
"""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK

from limn.domain.errors import ConfigWrong, RefusedSeries
from limn.domain.folders import writable
from limn.domain.scan import Volume
from limn.lab.data import case_checks
from limn.lab.data.folder_layout import (
    LABEL_OF,
    OBSERVERS,
    Contours,
    Found,
    Group,
    Kind,
    contours_without_ct,
    find_scans,
    read_layout,
)
from limn.lab.data.readers import on_grid, read_contours, read_ct, refuse_torn
from limn.lab.data.split import Split, as_toml, draw_split, folded, read_split
from limn.lab.nifti import to_image
from limn.lab.phantoms import phantom_dataset
from limn.lab.process.folder_lock import sole
from limn.phantom.cohort import CohortSplit as Side

MANIFEST = "dataset.csv"
SPLIT = "split.toml"
SCANS = "scans"
TRUTH = "truth"
DRAWN = (*OBSERVERS, TRUTH)
SEED = 1822
LOCK = ".import.lock"
# One to learn from and one to validate with.
FEWEST_FOLDS = 2
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """One scan of the manifest; paths relative to it, "" for what nobody drew.

    Attributes
    ----------
    contrast : "yes" or "no"
    split : "train", "test1" or "test2"
    fold : that the animal validates, from 0; "" for one that does not train
    sha256 : of the CT's voxels
    """

    scan: str
    animal: str
    time_point: str
    contrast: str
    split: str
    fold: str
    ct: str
    observer1: str
    observer2: str
    observer3: str
    truth: str
    spacing_mm: str
    voxels_zyx: str
    sha256: str


COLUMNS = tuple(field.name for field in fields(Entry))


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A scan as it is read, before it is written; array axes S, P, L.

    Attributes
    ----------
    drawn : observer, or "truth", to (z, y, x) uint8 on the CT's grid
    bad : why nobody should learn from it
    doubts : what a person should look at
    files : of a phantom, the files that hold all this already; they need not be written again
    """

    name: str
    animal: str
    time: str
    contrast: bool
    volume: Volume | None
    drawn: Mapping[str, npt.NDArray[np.uint8]]
    bad: tuple[str, ...]
    doubts: tuple[str, ...]
    files: Mapping[str, Path]


def import_folder(
    source: Path, out: Path, layout: Path | None, split: Path | None, report: Report
) -> None:
    """Make a data set of somebody's folder, of a phantom cohort, or of a data set made before.

    Parameters
    ----------
    layout : TOML as in `limn.lab.data.folder_layout`; a phantom cohort needs none, nor does a
        data set
    split : TOML as in `limn.lab.data.split`; without it a cohort keeps its own, and others are
        drawn

    Raises
    ------
    ConfigWrong
        If a file is wrong, or any scan is bad; every bad one has been reported by then, and
        there is no manifest. If a folder is not there, or not fit to be written to.
    """
    if not source.is_dir():
        msg = f"{source} is no folder; name the one that holds the scans"
        raise ConfigWrong(msg)
    _refuse_place(source, out)
    with sole(out, "import is at work there", LOCK):
        _import(source, out, layout, split, report)


def _refuse_place(source: Path, out: Path) -> None:
    """An import replaces whole folders: nothing that it did not make may lie there."""
    here, there = out.resolve(), source.resolve()
    if here == there or here in there.parents or there in here.parents:
        msg = f"{out} may not be {source}, lie in it or hold it; give a new folder for the data set"
        raise ConfigWrong(msg)
    writable(out)
    if any(out.iterdir()) and not any((out / name).exists() for name in (LOCK, MANIFEST)):
        msg = f"{out} holds files that no import made; give a new or an empty folder"
        raise ConfigWrong(msg)


def _import(
    source: Path, out: Path, layout: Path | None, split: Path | None, report: Report
) -> None:
    if (source / MANIFEST).exists():
        if layout is not None:
            report(f"{source} is a data set already; {layout} is not needed")
        _take_over(source, out, split, report)
        return
    if (source / phantom_dataset.MANIFEST).exists():
        rows = _cohort_rows(source)
        groups = {row["animal"]: row["contrast"] == "yes" for row in rows}
        asked = read_split(split) if split else _cohort_split(rows)
        cases = (_cohort_case(source, row) for row in rows)
        count = len(rows)
    elif layout is None:
        msg = (
            f"{source} holds no {phantom_dataset.MANIFEST}; for anything but a phantom cohort give "
            "--layout, such as config/rosenhain-zenodo.toml"
        )
        raise ConfigWrong(msg)
    else:
        contoured = _contoured(source, read_layout(layout), layout, report)
        groups = {scan.animal: scan.group.contrast for scan in contoured}
        asked = read_split(split) if split else _drawn_split(groups)
        cases = (_foreign_case(scan) for scan in contoured)
        count = len(contoured)
    _refuse_unfit(asked, set(groups))
    if absent := asked.absent(set(groups)):
        report(f"WARNING the split names animals that are not here: {', '.join(absent)}")
    _write(out, cases, count, asked, report)


def _contoured(source: Path, groups: Sequence[Group], layout: Path, report: Report) -> list[Found]:
    """The scans of somebody's folder that observer 1 contoured; what else lies there is told."""
    found = [scan for group in groups for scan in find_scans(source, group)]
    contoured = [scan for scan in found if "observer1" in scan.contours]
    if not contoured:
        msg = f"{source}: {len(found)} scans, none of them contoured by observer 1; mend {layout}"
        raise ConfigWrong(msg)
    for group in groups:
        own = [scan for scan in found if scan.group is group]
        for name, said in group.observers.items():
            if not any(name in scan.contours for scan in own):
                files = ", ".join(said.files)
                report(f"WARNING nothing fits [{group.name}.{name}] files = {files}")
        for path in contours_without_ct(source, group):
            report(f"WARNING {path}: no CT is here that it was drawn on")
    for scan in found:
        if scan not in contoured:
            report(f"left out: {scan.name}: not contoured by observer 1")
    return contoured


def _refuse_unfit(split: Split, animals: set[str]) -> None:
    """A split that these animals can't fill is told before hours are spent on reading them.

    Raises
    ------
    ConfigWrong
        If nobody of those who train is here.
    """
    if not split.training:
        msg = (
            f"the split trains on no animal; here are {', '.join(sorted(animals))}, and one is "
            "kept to test: contour more native animals, or name the sides by --split"
        )
        raise ConfigWrong(msg)
    if not animals & set(split.training):
        wanted, here = ", ".join(split.training), ", ".join(sorted(animals))
        msg = f"no animal that the split trains on is here: it names {wanted}; here are {here}"
        raise ConfigWrong(msg)


def _take_over(source: Path, out: Path, split: Path | None, report: Report) -> None:
    """The same data set in another folder, its files linked where that can be.

    Raises
    ------
    ConfigWrong
        If it was made with another split than the one that is asked for.
    """
    entries = read_dataset(source)
    (out / MANIFEST).unlink(missing_ok=True)
    if split is not None:
        asked = read_split(split)
        for own in entries:
            side, fold = asked.side_of(own.animal), asked.fold_of(own.animal)
            if (side, "" if fold is None else str(fold)) != (own.split, own.fold):
                msg = f"{source} was imported with another split than {split}: {own.animal}"
                raise ConfigWrong(msg)
    for own in entries:
        for name in ("ct", *DRAWN):
            if path := getattr(own, name):
                if not (source / path).is_file():
                    msg = f"{source / MANIFEST} names {path}, which is not there; import anew"
                    raise ConfigWrong(msg)
                (out / path).parent.mkdir(parents=True, exist_ok=True)
                (out / path).unlink(missing_ok=True)
                place(source / path, out / path)
    shutil.copyfile(source / SPLIT, out / SPLIT)
    part = out / f"{MANIFEST}.part"
    shutil.copyfile(source / MANIFEST, part)
    part.replace(out / MANIFEST)
    report(f"{out / MANIFEST}: {len(entries)} scans of {source}, imported before")


def read_dataset(folder: Path) -> tuple[Entry, ...]:
    """The manifest of a data set.

    Raises
    ------
    ConfigWrong
        If it is not there or of another kind, a scan that trains has no fold, or an animal is on
        two sides.
    """
    path = folder / MANIFEST
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.DictReader(file)
            if tuple(lines.fieldnames or ()) != COLUMNS:
                msg = f"{path}: columns {', '.join(COLUMNS)} expected"
                raise ConfigWrong(msg)
            entries = tuple(Entry(**row) for row in lines)
    except OSError as error:
        msg = f"{path}: {error.strerror}; make it with limn lab import"
        raise ConfigWrong(msg) from error
    for own in entries:
        if (own.split == Side.TRAIN) != own.fold.isdecimal():
            msg = f"{path}: {own.scan}: fold {own.fold!r} of split {own.split!r}: mend the line"
            raise ConfigWrong(msg)
    refuse_leaks(entries)
    return entries


def refuse_leaks(entries: Iterable[Entry]) -> None:
    """Raise if an animal, or one image under two animals' names, is on two sides.

    Raises
    ------
    ConfigWrong
        Names the animals.
    """
    sides: dict[str, set[tuple[str, str]]] = defaultdict(set)
    owners: dict[str, set[str]] = defaultdict(set)
    for own in entries:
        sides[own.animal].add((own.split, own.fold))
        owners[own.sha256].add(own.animal)
    for animal, where in sides.items():
        if len(where) > 1:
            said = " and ".join(" fold ".join(filter(None, each)) for each in sorted(where))
            msg = f"animal {animal} is in {said}; an animal may be in one place"
            raise ConfigWrong(msg)
    for animals in owners.values():
        if len(animals) > 1:
            msg = f"animals {' and '.join(sorted(animals))} have one and the same CT"
            raise ConfigWrong(msg)


def unlike_the_paper(entries: Iterable[Entry]) -> list[str]:
    """Sides that the paper kept apart and a site's split does not: its right, but to be told.

    Malimban 2022, Methods, "Network training and inference": all networks learnt from native
    scans only; test set 1 is native, test set 2 contrast-enhanced.
    """
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for own in entries:
        found[own.split, own.contrast].add(own.animal)
    said = {
        (Side.TRAIN, "yes"): "contrast-enhanced animals train, in the paper none did",
        (Side.TEST1, "yes"): "contrast-enhanced animals in test set 1, which tables call native",
        (Side.TEST2, "no"): "native animals in test set 2, which tables call contrast-enhanced",
    }
    return [
        f"{words}: {', '.join(sorted(found[where]))}"
        for where, words in said.items()
        if where in found
    ]


def _write(out: Path, cases: Iterable[Case], count: int, split: Split, report: Report) -> None:
    writable(out / SCANS)
    for old in (out / MANIFEST, out / SPLIT):
        old.unlink(missing_ok=True)
    entries, bad = [], 0
    for number, case in enumerate(cases, start=1):
        side = split.side_of(case.animal)
        undrawn = [] if case.bad else case_checks.undrawn(case.drawn["observer1"])
        wrong, doubts = list(case.bad), list(case.doubts)
        if undrawn and side is Side.TRAIN:
            wrong.append(
                f"observer1 drew no {' and no '.join(undrawn)}, and systems would learn that "
                "there is none"
            )
        elif undrawn:
            doubts.append(f"observer1 drew no {' and no '.join(undrawn)}; not scored there")
        if wrong:
            bad += 1
            report(f"BAD {case.name}: {'; '.join(wrong)}")
        elif side is None:
            report(f"left out: {case.name}: the split does not name animal {case.animal}")
        else:
            entries.append(_entry(out, case, side, split.fold_of(case.animal)))
            for doubt in doubts:
                report(f"WARNING {case.name}: {doubt}")
            report(f"{number}/{count} {case.name}: {side.value}")
    if bad:
        msg = (
            f"{bad} of {count} scans can't be used, each named above; mend them, or leave them out "
            "by name (leave_out in the layout)"
        )
        raise ConfigWrong(msg)
    refuse_leaks(entries)
    for line in unlike_the_paper(entries):
        report(f"WARNING {line}")
    (out / SPLIT).write_text(as_toml(split), encoding="utf-8")
    part = out / f"{MANIFEST}.part"
    with part.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(COLUMNS)
        lines.writerows(astuple(own) for own in entries)
    part.replace(out / MANIFEST)
    told = ", ".join(
        f"{side.value} {sum(own.split == side for own in entries)} scans of "
        f"{len({own.animal for own in entries if own.split == side})} animals"
        for side in Side
    )
    report(f"{out / MANIFEST}: {told}")
    if len({own.fold for own in entries if own.split == Side.TRAIN}) < FEWEST_FOLDS:
        report(
            "WARNING all animals that train are in one fold; limn lab reproduce needs two (three "
            "native animals, of which one tests, or a split of your own)"
        )


def _entry(out: Path, case: Case, side: Side, fold: int | None) -> Entry:
    """Write a scan, whole or not at all, and say what it is."""
    if case.volume is None:
        msg = f"{case.name} was not read"
        raise ValueError(msg)
    span = np.iinfo(np.int16)
    hu = np.clip(np.rint(case.volume.hu_zyx), span.min, span.max).astype(np.int16)
    arrays: dict[str, npt.NDArray[Any]] = {"ct": hu, **case.drawn}
    own = out / SCANS / case.name
    part = own.with_name(f"{own.name}.part")
    for old in (part, own):
        if old.exists():
            shutil.rmtree(old)
    part.mkdir()
    for name, array in arrays.items():
        wanted = part / f"{name}.nii.gz"
        if name in case.files:
            place(case.files[name], wanted)
        else:
            SimpleITK.WriteImage(to_image(array, case.volume.grid), str(wanted))
    part.rename(own)
    grid = case.volume.grid
    paths = {
        name: f"{SCANS}/{case.name}/{name}.nii.gz" if name in arrays else ""
        for name in ("ct", *DRAWN)
    }
    return Entry(
        scan=case.name,
        animal=case.animal,
        time_point=case.time,
        contrast="yes" if case.contrast else "no",
        split=side.value,
        fold="" if fold is None else str(fold),
        **paths,
        spacing_mm=" ".join(f"{mm:g}" for mm in grid.spacing_mm.zyx),
        voxels_zyx=" ".join(str(n) for n in grid.shape_zyx),
        sha256=hashlib.sha256(hu.tobytes()).hexdigest(),
    )


def _foreign_case(scan: Found) -> Case:
    """A scan of somebody's folder, read and looked at."""
    drawn: dict[str, npt.NDArray[np.uint8]] = {}
    bad: list[str] = []
    volume = None
    try:
        refuse_torn(scan.ct)
        volume = read_ct(scan.ct, scan.group.axes)
        bad += case_checks.wrong_spacing(volume.grid, scan.group.spacing_mm)
    except RefusedSeries as error:
        bad.append(str(error))
    for name, path in scan.contours.items():
        said = scan.group.observers[name]
        if volume is None:
            break
        try:
            refuse_torn(path)
            labels_zyx, grid = read_contours(path, said, scan.ct)
        except RefusedSeries as error:
            bad.append(f"{name}: {error}")
            continue
        off = case_checks.wrong_grid(name, grid, volume.grid, resample=said.resample)
        bad += off + case_checks.missing_labels(name, labels_zyx, said)
        if not off:
            drawn[name] = on_grid(labels_zyx, grid, volume.grid) if said.resample else labels_zyx
    absent = [name for name in scan.group.observers if name not in scan.contours]
    doubts = [f"no contours of {name}; Table 3 does without it" for name in absent]
    return _looked_at(
        scan.name, scan.animal, scan.time, scan.group.contrast, volume, drawn, bad, doubts, {}
    )


def _cohort_case(source: Path, row: Mapping[str, str]) -> Case:
    """A phantom, looked at as if somebody else had made it."""
    said = {name: _cohort_contours(name) for name in DRAWN}
    drawn: dict[str, npt.NDArray[np.uint8]] = {}
    bad: list[str] = []
    volume = None
    paths = {name: source / row[name] for name in ("ct", *DRAWN)}
    try:
        refuse_torn(paths["ct"])
        volume = read_ct(paths["ct"], "")
        for name in DRAWN:
            refuse_torn(paths[name])
            labels_zyx, grid = read_contours(paths[name], said[name], paths["ct"])
            off = case_checks.wrong_grid(name, grid, volume.grid, resample=False)
            bad += off + case_checks.missing_labels(name, labels_zyx, said[name])
            if not off:
                drawn[name] = labels_zyx
    except RefusedSeries as error:
        bad.append(str(error))
    return _looked_at(
        row["scan"],
        row["animal"],
        row["time_point"],
        row["contrast"] == "yes",
        volume,
        drawn,
        bad,
        [],
        paths,
    )


def _looked_at(
    name: str,
    animal: str,
    time: str,
    contrast: bool,
    volume: Volume | None,
    drawn: Mapping[str, npt.NDArray[np.uint8]],
    bad: Sequence[str],
    doubts: Sequence[str],
    files: Mapping[str, Path],
) -> Case:
    found, look = list(bad), list(doubts)
    for who, labels_zyx in drawn.items():
        found += case_checks.sides(who, labels_zyx)
        found += case_checks.upside_down(who, labels_zyx)
        look += case_checks.doubtful_sides(who, labels_zyx)
    if volume is not None and "observer1" in drawn:
        found += case_checks.elsewhere(drawn, volume)
        look += case_checks.doubtful_hu(drawn["observer1"], volume)
    return Case(name, animal, time, contrast, volume, drawn, tuple(found), tuple(look), files)


def _cohort_contours(name: str) -> Contours:
    """What everyone drew on a phantom, in its own numbers."""
    words = (
        ("Heart", "Lungs")
        if name == "observer3"
        else tuple(word for word in LABEL_OF if word != "Lungs")
    )
    names = {word: (str(LABEL_OF[word]),) for word in words}
    return Contours((), Kind.LABELS, names, "", resample=False)


def _cohort_rows(source: Path) -> list[dict[str, str]]:
    path = source / phantom_dataset.MANIFEST
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.DictReader(file)
        if missing := [
            name for name in phantom_dataset.COLUMNS if name not in (lines.fieldnames or ())
        ]:
            msg = f"{path}: column {missing[0]} is missing; make it with limn phantom cohort"
            raise ConfigWrong(msg)
        return list(lines)


def _cohort_split(rows: Sequence[Mapping[str, str]]) -> Split:
    """The cohort's own; folds in the order of its animals."""
    side_of = {row["animal"]: Side(row["split"]) for row in rows}
    train, test1, test2 = ([a for a, own in side_of.items() if own is side] for side in Side)
    return folded(train, test1, test2)


def _drawn_split(contrast_of: Mapping[str, bool]) -> Split:
    """Native animals train and test; where all had contrast agent, those."""
    native = [animal for animal, contrast in contrast_of.items() if not contrast]
    if not native:
        return draw_split(list(contrast_of), [], SEED)
    return draw_split(native, [a for a in contrast_of if a not in native], SEED)


def place(source: Path, wanted: Path) -> None:
    """The same file in another folder: a second name, or a copy where that can't be."""
    try:
        os.link(source, wanted)
    except OSError:
        shutil.copyfile(source, wanted)
