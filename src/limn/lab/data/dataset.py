"""limn's own data set: contoured scans of animals in one folder, whatever their origin.

``dataset.csv`` names every scan, its animal and its use; ``split.toml`` is the split of animals
that it follows, ``organs.toml`` has the organs and their labels (`limn.lab.data.organs`).
``scans/NAME/`` holds ``ct.nii.gz`` and ``observer1.nii.gz`` to 3, for a phantom also
``truth.nii.gz``: all on one grid with array axes S, P, L. The manifest is written last: a folder
with a manifest is whole.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from limn.domain.errors import ConfigWrong, RefusedSeries
from limn.domain.files import new_folder, write_durably
from limn.domain.folders import writable
from limn.domain.one_line import one_line
from limn.domain.scan import Organ, Role, Volume
from limn.domain.spreadsheet import neutral, plain
from limn.formats.label_files import image_of, write_image
from limn.lab.data import case_checks
from limn.lab.data.folder_layout import (
    OBSERVERS,
    Group,
    Kind,
    ObserverLayout,
    ScanFiles,
    contours_without_ct,
    find_scans,
    odd_names,
    read_layout,
)
from limn.lab.data.organs import (
    BOTH_LUNGS,
    ORGANS,
    PHANTOM_ORGANS,
    DatasetOrgans,
    organs_in,
    read_organs,
)
from limn.lab.data.organs import as_toml as organs_as_toml
from limn.lab.data.readers import on_grid, read_contours, read_ct, refuse_truncated
from limn.lab.data.split import Split, as_toml, draw_split, folded, read_split
from limn.lab.phantoms import phantom_dataset
from limn.lab.process.folder_lock import folder_lock
from limn.phantom.cohort import CohortSplit as Side

MANIFEST = "dataset.csv"
SPLIT = "split.toml"
SCANS = "scans"
TRUTH = "truth"
LABEL_SETS = (*OBSERVERS, TRUTH)
SEED = 1822
LOCK = ".import.lock"
# One fold to train on and one to validate with.
MIN_FOLDS = 2
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """One scan of the manifest; paths are relative to it, "" where an observer drew nothing.

    Attributes
    ----------
    contrast : "yes" or "no"
    split : "train", "test1" or "test2"
    fold : the fold that the animal validates, from 0; "" for an animal that does not train
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


COLUMNS = tuple(column.name for column in fields(Entry))


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A scan that was read and is not yet written; array axes S, P, L.

    Attributes
    ----------
    labels : observer, or "truth", to (z, y, x) uint8 on the CT's grid
    faults : why no system may learn from the scan
    doubts : what a person should look at
    files : name in the data set to a file that already holds the array, and is linked or copied
    """

    name: str
    animal: str
    time: str
    contrast: bool
    volume: Volume | None
    labels: Mapping[str, npt.NDArray[np.uint8]]
    faults: tuple[str, ...]
    doubts: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)


def import_folder(
    source: Path,
    out: Path,
    layout: Path | None,
    split: Path | None,
    report: Report,
    organs: Path | None = None,
) -> None:
    """Make a data set from a site's folder, from a phantom cohort, or from another data set.

    Parameters
    ----------
    layout : TOML as in `limn.lab.data.folder_layout`; a phantom cohort and a data set need none
    split : TOML as in `limn.lab.data.split`; without it a cohort keeps its own split, and for a
        site's folder one is drawn
    organs : a bundle, a data set or a TOML with ``[labels]``, whose organs the data set must have;
        without it they are those of the layout

    Raises
    ------
    ConfigWrong
        If a file is wrong, a folder is missing or can't be written, or a scan is bad. Every bad
        scan is reported before, and no manifest is written.
    """
    if not source.is_dir():
        msg = f"{source} is not a folder; give the folder that holds the scans"
        raise ConfigWrong(msg)
    _refuse_place(source, out)
    with folder_lock(out, "import is at work there", LOCK):
        _import(source, out, layout, split, report, organs)


def _refuse_place(source: Path, out: Path) -> None:
    """Raise if the folder holds other files: an import replaces whole folders."""
    here, there = out.resolve(), source.resolve()
    if here == there or here in there.parents or there in here.parents:
        msg = f"{out} may not be {source}, lie in it or hold it; give a new folder for the data set"
        raise ConfigWrong(msg)
    writable(out)
    if any(out.iterdir()) and not any((out / name).exists() for name in (LOCK, MANIFEST)):
        msg = f"{out} holds files that no import wrote; give a new or an empty folder"
        raise ConfigWrong(msg)


def _import(
    source: Path,
    out: Path,
    layout: Path | None,
    split: Path | None,
    report: Report,
    organs_from: Path | None,
) -> None:
    organs = organs_in(organs_from) if organs_from else None
    if (source / MANIFEST).exists():
        _refuse_other_organs(source, read_organs(source), organs)
        if layout is not None:
            report(f"{source} is a data set already; {layout} is not needed")
        _copy_dataset(source, out, split, report)
        return
    if (source / phantom_dataset.MANIFEST).exists():
        _refuse_other_organs(source, PHANTOM_ORGANS, organs)
        organs = PHANTOM_ORGANS
        rows = _cohort_rows(source)
        groups = {row["animal"]: row["contrast"] == "yes" for row in rows}
        sides = read_split(split) if split else _cohort_split(rows)
        cases = (_read_cohort_case(source, row) for row in rows)
        count = len(rows)
    elif layout is None:
        msg = (
            f"{source} holds no {phantom_dataset.MANIFEST}; for anything but a phantom cohort give "
            "--layout, such as config/rosenhain-zenodo.toml"
        )
        raise ConfigWrong(msg)
    else:
        found = read_layout(layout, organs)
        organs = found.organs
        contoured = _find_contoured(source, found.groups, layout, report)
        groups = {scan.animal: scan.group.contrast for scan in contoured}
        sides = read_split(split) if split else _draw_split(groups)
        cases = (_read_site_case(scan, found.organs) for scan in contoured)
        count = len(contoured)
    _refuse_untrainable(sides, set(groups))
    if absent := sides.absent(set(groups)):
        report(f"WARNING the split names animals that are not here: {', '.join(absent)}")
    report(f"organs: {', '.join(f'{label} {organ}' for label, organ in organs.organs.items())}")
    for check in case_checks.left_out_checks(organs):
        report(f"not checked: {check}")
    _write(out, cases, count, sides, organs, report)


def _refuse_other_organs(source: Path, own: DatasetOrgans, wanted: DatasetOrgans | None) -> None:
    """Refuse organs that a source which numbers its own has not."""
    if wanted is not None and dict(wanted.organs) != dict(own.organs):
        msg = (
            f"{source} has the organs {', '.join(own.organs.values())} under its own labels, not "
            f"{', '.join(wanted.organs.values())}: leave --organs out, or import with --layout"
        )
        raise ConfigWrong(msg)


def _find_contoured(
    source: Path, groups: Sequence[Group], layout: Path, report: Report
) -> list[ScanFiles]:
    """The scans of a site's folder that observer 1 contoured; the others are reported."""
    for path in odd_names(source):
        report(f"left out: {one_line(path)}: the name is no UTF-8 or can't be shown; rename it")
    scans = [scan for group in groups for scan in find_scans(source, group)]
    contoured = [scan for scan in scans if "observer1" in scan.contours]
    if not contoured:
        msg = f"{source}: {len(scans)} scans, none of them contoured by observer 1; mend {layout}"
        raise ConfigWrong(msg)
    for group in groups:
        for name, observer in group.observers.items():
            if not any(scan.group is group and name in scan.contours for scan in scans):
                files = ", ".join(observer.files)
                report(f"WARNING nothing fits [{group.name}.{name}] files = {files}")
        for path in contours_without_ct(source, group):
            report(f"WARNING {path}: the CT that it was drawn on is not here")
    for scan in scans:
        if scan not in contoured:
            report(f"left out: {scan.name}: not contoured by observer 1")
    return contoured


def _refuse_untrainable(split: Split, animals: set[str]) -> None:
    """Check the split before hours are spent on reading scans.

    Raises
    ------
    ConfigWrong
        If no animal that trains is here.
    """
    if not split.training:
        msg = (
            f"the split trains on no animal; here are {', '.join(sorted(animals))}, and one of "
            "them tests: contour more native animals, or give a split by --split"
        )
        raise ConfigWrong(msg)
    if not animals & set(split.training):
        named, here = ", ".join(split.training), ", ".join(sorted(animals))
        msg = f"no animal that the split trains on is here: it names {named}; here are {here}"
        raise ConfigWrong(msg)


def _copy_dataset(source: Path, out: Path, split: Path | None, report: Report) -> None:
    """Copy a data set to another folder; its files are linked where the file system can.

    Raises
    ------
    ConfigWrong
        If it was made with another split than the given one.
    """
    entries = read_dataset(source)
    (out / MANIFEST).unlink(missing_ok=True)
    if split is not None:
        sides = read_split(split)
        for entry in entries:
            side, fold = sides.side_of(entry.animal), sides.fold_of(entry.animal)
            if (side, "" if fold is None else str(fold)) != (entry.split, entry.fold):
                msg = f"{source} was imported with another split than {split}: {entry.animal}"
                raise ConfigWrong(msg)
    for entry in entries:
        for name in ("ct", *LABEL_SETS):
            if path := getattr(entry, name):
                if not (source / path).is_file():
                    msg = f"{source / MANIFEST} names {path}, which is missing; import again"
                    raise ConfigWrong(msg)
                (out / path).parent.mkdir(parents=True, exist_ok=True)
                (out / path).unlink(missing_ok=True)
                link_or_copy(source / path, out / path)
    write_durably(out / SPLIT, (source / SPLIT).read_bytes())
    write_durably(out / ORGANS, organs_as_toml(read_organs(source)).encode())
    write_durably(out / MANIFEST, (source / MANIFEST).read_bytes())
    report(f"{out / MANIFEST}: {len(entries)} scans of {source}, imported before")


def read_dataset(folder: Path) -> tuple[Entry, ...]:
    """The manifest of a data set.

    Raises
    ------
    ConfigWrong
        If it is missing or has other columns, a scan that trains has no fold, or an animal is on
        two sides.
    """
    path = folder / MANIFEST
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.DictReader(file)
            if tuple(lines.fieldnames or ()) != COLUMNS:
                msg = f"{path}: columns {', '.join(COLUMNS)} expected"
                raise ConfigWrong(msg)
            entries = tuple(
                Entry(**{name: plain(text or "") for name, text in row.items()}) for row in lines
            )
    except OSError as error:
        msg = f"{path}: {error.strerror}; make it with limn lab import"
        raise ConfigWrong(msg) from error
    for entry in entries:
        if (entry.split == Side.TRAIN) != entry.fold.isdecimal():
            msg = (
                f"{path}: {entry.scan}: fold {entry.fold!r} of split {entry.split!r}: mend the line"
            )
            raise ConfigWrong(msg)
    refuse_leaks(entries)
    return entries


def refuse_leaks(entries: Iterable[Entry]) -> None:
    """Refuse an animal on two sides, and one image under the names of two animals.

    Raises
    ------
    ConfigWrong
        Names the animals.
    """
    sides: dict[str, set[tuple[str, str]]] = defaultdict(set)
    owners: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        sides[entry.animal].add((entry.split, entry.fold))
        owners[entry.sha256].add(entry.animal)
    for animal, places in sides.items():
        if len(places) > 1:
            names = " and ".join(" fold ".join(filter(None, place)) for place in sorted(places))
            msg = f"animal {animal} is in {names}; an animal may be in one place"
            raise ConfigWrong(msg)
    for animals in owners.values():
        if len(animals) > 1:
            msg = f"animals {' and '.join(sorted(animals))} have the same CT"
            raise ConfigWrong(msg)


def differences_from_paper(entries: Iterable[Entry]) -> list[str]:
    """Warnings where a site's split mixes native and contrast-enhanced animals; it may do so.

    Malimban 2022, Methods, "Network training and inference": all networks learnt from native
    scans only; test set 1 is native, test set 2 contrast-enhanced.
    """
    animals: dict[tuple[str, str], set[str]] = defaultdict(set)
    for entry in entries:
        animals[entry.split, entry.contrast].add(entry.animal)
    warnings = {
        (Side.TRAIN, "yes"): "contrast-enhanced animals train, in the paper none did",
        (Side.TEST1, "yes"): "contrast-enhanced animals in test set 1, which tables call native",
        (Side.TEST2, "no"): "native animals in test set 2, which tables call contrast-enhanced",
    }
    return [
        f"{warning}: {', '.join(sorted(animals[key]))}"
        for key, warning in warnings.items()
        if key in animals
    ]


def _write(
    out: Path,
    cases: Iterable[Case],
    count: int,
    split: Split,
    organs: DatasetOrgans,
    report: Report,
) -> None:
    writable(out / SCANS)
    for old in (out / MANIFEST, out / SPLIT, out / ORGANS):
        old.unlink(missing_ok=True)
    entries, bad = [], 0
    for number, case in enumerate(cases, start=1):
        side = split.side_of(case.animal)
        absent = [] if case.faults else case_checks.absent_organs(case.labels["observer1"], organs)
        faults, doubts = list(case.faults), list(case.doubts)
        if absent and side is Side.TRAIN:
            faults.append(
                f"observer1 drew no {' and no '.join(absent)}, and systems would learn that "
                "there is none"
            )
        elif absent:
            doubts.append(f"observer1 drew no {' and no '.join(absent)}; it is not scored there")
        if faults:
            bad += 1
            report(f"BAD {case.name}: {'; '.join(faults)}")
        elif side is None:
            report(f"left out: {case.name}: the split does not name animal {case.animal}")
        else:
            entries.append(_write_case(out, case, side, split.fold_of(case.animal)))
            for doubt in doubts:
                report(f"WARNING {case.name}: {doubt}")
            report(f"{number}/{count} {case.name}: {side.value}")
    if bad:
        msg = (
            f"{bad} of {count} scans can't be used; each is named above: mend it, or leave it out "
            "by its name (leave_out in the layout)"
        )
        raise ConfigWrong(msg)
    refuse_leaks(entries)
    for warning in differences_from_paper(entries):
        report(f"WARNING {warning}")
    write_durably(out / SPLIT, as_toml(split).encode())
    write_durably(out / ORGANS, organs_as_toml(organs).encode())
    _write_manifest(out, entries)
    counts = ", ".join(
        f"{side.value} {sum(entry.split == side for entry in entries)} scans of "
        f"{len({entry.animal for entry in entries if entry.split == side})} animals"
        for side in Side
    )
    report(f"{out / MANIFEST}: {counts}")
    if len({entry.fold for entry in entries if entry.split == Side.TRAIN}) < MIN_FOLDS:
        report(
            "WARNING all animals that train are in one fold; limn lab reproduce needs two (three "
            "native animals, of which one tests, or a split of your own)"
        )


def _write_manifest(out: Path, entries: Iterable[Entry]) -> None:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    lines.writerows(map(neutral, astuple(entry)) for entry in entries)
    write_durably(out / MANIFEST, text.getvalue().encode())


def _write_case(out: Path, case: Case, side: Side, fold: int | None) -> Entry:
    """Write the files of a scan, all or none; return its line of the manifest."""
    if case.volume is None:
        msg = f"{case.name} was not read"
        raise ValueError(msg)
    span = np.iinfo(np.int16)
    hu = np.clip(np.rint(case.volume.hu_zyx), span.min, span.max).astype(np.int16)
    arrays: dict[str, npt.NDArray[Any]] = {"ct": hu, **case.labels}
    grid = case.volume.grid
    folder = out / SCANS / case.name
    if folder.exists():
        shutil.rmtree(folder)
    with new_folder(folder) as part:
        for name, array in arrays.items():
            file = part / f"{name}.nii.gz"
            if name in case.files:
                link_or_copy(case.files[name], file)
            else:
                write_image(file, image_of(array, grid))
    paths = {
        name: f"{SCANS}/{case.name}/{name}.nii.gz" if name in arrays else ""
        for name in ("ct", *LABEL_SETS)
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


def _read_site_case(scan: ScanFiles, organs: DatasetOrgans) -> Case:
    """Read and check a scan of a site's folder."""
    labels: dict[str, npt.NDArray[np.uint8]] = {}
    faults: list[str] = []
    doubts: list[str] = []
    volume = None
    try:
        refuse_truncated(scan.ct)
        volume = read_ct(scan.ct, scan.group.axes)
        faults += case_checks.wrong_spacing(volume.grid, scan.group.spacing_mm)
    except RefusedSeries as error:
        faults.append(str(error))
    for name, path in scan.contours.items():
        layout = scan.group.observers[name]
        if volume is None:
            break
        try:
            refuse_truncated(path)
            labels_zyx, grid, found = read_contours(path, layout, scan.ct, organs.label_of)
        except RefusedSeries as error:
            faults.append(f"{name}: {error}")
            continue
        doubts += [f"{name}: {doubt}" for doubt in found]
        grid_faults = case_checks.wrong_grid(name, grid, volume.grid, resample=layout.resample)
        faults += grid_faults + case_checks.missing_labels(name, labels_zyx, layout, organs)
        if not grid_faults:
            labels[name] = on_grid(labels_zyx, grid, volume.grid) if layout.resample else labels_zyx
    absent = [name for name in scan.group.observers if name not in scan.contours]
    doubts += [f"no contours of {name}; Table 3 is made without them" for name in absent]
    case = Case(scan.name, scan.animal, scan.time, scan.group.contrast, volume, labels, ())
    return _check(replace(case, faults=tuple(faults), doubts=tuple(doubts)), organs)


def _read_cohort_case(source: Path, row: Mapping[str, str]) -> Case:
    """Read and check a phantom as if a site had made it."""
    layouts = {name: _cohort_layout(name) for name in LABEL_SETS}
    labels: dict[str, npt.NDArray[np.uint8]] = {}
    faults: list[str] = []
    volume = None
    paths = {name: source / row[name] for name in ("ct", *LABEL_SETS)}
    try:
        refuse_truncated(paths["ct"])
        volume = read_ct(paths["ct"], "")
        for name in LABEL_SETS:
            refuse_truncated(paths[name])
            labels_zyx, grid, _ = read_contours(
                paths[name], layouts[name], paths["ct"], PHANTOM_ORGANS.label_of
            )
            grid_faults = case_checks.wrong_grid(name, grid, volume.grid, resample=False)
            faults += grid_faults + case_checks.missing_labels(
                name, labels_zyx, layouts[name], PHANTOM_ORGANS
            )
            if not grid_faults:
                labels[name] = labels_zyx
    except RefusedSeries as error:
        faults.append(str(error))
    return _check(
        Case(
            row["scan"],
            row["animal"],
            row["time_point"],
            row["contrast"] == "yes",
            volume,
            labels,
            tuple(faults),
            files=paths,
        ),
        PHANTOM_ORGANS,
    )


def _check(case: Case, organs: DatasetOrgans) -> Case:
    """The case with the faults and doubts that its contours show."""
    faults, doubts = list(case.faults), list(case.doubts)
    for name, labels_zyx in case.labels.items():
        faults += case_checks.swapped_sides(name, labels_zyx, organs)
        faults += case_checks.swapped_pairs(name, labels_zyx, organs)
        faults += case_checks.upside_down(name, labels_zyx, organs)
        doubts += case_checks.doubtful_sides(name, labels_zyx, organs)
    if case.volume is not None and "observer1" in case.labels:
        faults += case_checks.misplaced_contours(case.labels, case.volume, organs)
        doubts += case_checks.doubtful_hu(case.labels["observer1"], case.volume, organs)
    return replace(case, faults=tuple(faults), doubts=tuple(doubts))


def _cohort_layout(observer: str) -> ObserverLayout:
    """How the label files of a phantom cohort are to be read."""
    words: list[Organ] = list(PHANTOM_ORGANS.organs.values())
    if observer == "observer3":
        words = [PHANTOM_ORGANS.roles[Role.HEART], BOTH_LUNGS]
    names = {word: (str(PHANTOM_ORGANS.label_of[word]),) for word in words}
    return ObserverLayout((), Kind.LABELS, names, "", resample=False)


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
    """The cohort's own split; the folds follow the order of its animals."""
    side_of = {row["animal"]: Side(row["split"]) for row in rows}
    train, test1, test2 = (
        [animal for animal in side_of if side_of[animal] is side] for side in Side
    )
    return folded(train, test1, test2)


def _draw_split(contrast_of: Mapping[str, bool]) -> Split:
    """Native animals train and test; if every animal had contrast agent, all of them do."""
    native = [animal for animal, contrast in contrast_of.items() if not contrast]
    if not native:
        return draw_split(list(contrast_of), [], SEED)
    return draw_split(native, [a for a in contrast_of if a not in native], SEED)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
