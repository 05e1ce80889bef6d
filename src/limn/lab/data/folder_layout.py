"""Finds scans and contours in a site's folder by a layout: a TOML file of path patterns.

Each table is a group of animals, such as ``[native]``, except those of `limn.lab.data.organs`. A
pattern is a path below the folder: ``{animal}`` and ``{time}`` stand for the parts that name a
scan, ``{study}`` for one within which animals' names are unique, ``*`` for anything within one
name. If several patterns fit a scan, the first counts.
`config/rosenhain-zenodo.toml` shows every key.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

from limn.domain.errors import ConfigWrong
from limn.domain.scan import Organ, named_organ
from limn.lab.data.organs import TABLES, DatasetOrgans, numbered, organs_of_tables

OBSERVERS = ("observer1", "observer2", "observer3")
_PARTS = {"{animal}": "animal", "{time}": "time", "{study}": "study"}
_NEEDED = {"animal", "time"}


class Kind(Enum):
    """How a file of contours names its organs; the key of its table in a layout."""

    LABELS = "labels"
    CLASSES = "classes"
    ROIS = "rois"


@dataclass(frozen=True, slots=True)
class ObserverLayout:
    """Where the contours of one observer are, and what their organs are called.

    Attributes
    ----------
    files : patterns
    names : organ, or several as one under a name of ``[joined]``, to its names in the file: label
        numbers (`Kind.LABELS`), names in the ``.cls`` file beside it (`Kind.CLASSES`), ROI names
    axes : the directions of the array's axes (z, y, x), such as "SAR"; "" to trust the header
    resample : voxels of another size are allowed, and resampled to the CT's by nearest neighbour
    """

    files: tuple[str, ...]
    kind: Kind
    names: Mapping[Organ, tuple[str, ...]]
    axes: str
    resample: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Animals that were scanned in the same way.

    Attributes
    ----------
    contrast : they were given a contrast agent
    ct : patterns of image files, or of folders with one DICOM series each
    axes : directions of the CT's axes, as in `ObserverLayout`
    spacing_mm : of the CT's voxels; 0 allows any
    scans : how many there must be; 0 allows any number
    leave_out : scans that are known to be bad, as ANIMAL_TIME
    """

    name: str
    contrast: bool
    ct: tuple[str, ...]
    axes: str
    spacing_mm: float
    scans: int
    leave_out: tuple[str, ...]
    observers: Mapping[str, ObserverLayout]


@dataclass(frozen=True, slots=True)
class ScanFiles:
    """The files of one scan in a site's folder; none has been opened."""

    group: Group
    animal: str
    time: str
    ct: Path
    contours: Mapping[str, Path]

    @property
    def name(self) -> str:
        """The scan's name in the data set; it is unique there."""
        return f"{self.animal}-{self.time}"


@dataclass(frozen=True, slots=True)
class FolderLayout:
    """Where the scans are, and which organs observer 1 drew on them."""

    groups: tuple[Group, ...]
    organs: DatasetOrgans


def read_layout(path: Path, known: DatasetOrgans | None = None) -> FolderLayout:
    """Read a layout.

    Parameters
    ----------
    known : organs that the data set must have, such as those of a bundle; without them the tables
        of the layout count, or the organs that observer 1 drew are numbered

    Raises
    ------
    ConfigWrong
        If it can't be read or a key is wrong; the message names the key.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path} can't be read as a layout: {error}"
        raise ConfigWrong(msg) from error
    groups = []
    for name, table in tables.items():
        if name in TABLES:
            continue
        try:
            groups.append(_group(name, table))
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            msg = f"{path}: [{name}]: {error}"
            raise ConfigWrong(msg) from error
    if not groups:
        msg = f"{path}: no group of scans; a table such as [native] expected"
        raise ConfigWrong(msg)
    try:
        organs = known or _organs(groups, tables)
        _refuse_other_organs(groups, organs)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        msg = f"{path}: {error}"
        raise ConfigWrong(msg) from error
    return FolderLayout(tuple(groups), organs)


def _organs(groups: Sequence[Group], tables: Mapping[str, Any]) -> DatasetOrgans:
    """The organs of the layout's own tables, or all that observer 1 drew in any group."""
    if "labels" in tables:
        return organs_of_tables(tables)
    joined = tables.get("joined")
    drawn = dict.fromkeys(organ for each in groups for organ in each.observers["observer1"].names)
    return numbered(
        [organ for organ in drawn if organ not in (joined or {})], tables.get("roles"), joined
    )


def _refuse_other_organs(groups: Sequence[Group], organs: DatasetOrgans) -> None:
    """Refuse a name that the data set has not, and organs that nobody drew.

    Raises
    ------
    ValueError
        Names the table and the organ.
    """
    drawn = {organ for each in groups for organ in each.observers["observer1"].names}
    for group in groups:
        for name, observer in group.observers.items():
            where = f"[{group.name}.{name}] {observer.kind.value}"
            if wrong := [organ for organ in observer.names if organ not in organs.label_of]:
                msg = f"{where}: {wrong[0]!r}: one of {', '.join(organs.label_of)} expected"
                raise ValueError(msg)
        for both in set(organs.joined) & set(group.observers["observer1"].names):
            parts = " and ".join(organs.joined[both])
            msg = (
                f"[{group.name}]: observer1 has {parts} as one ({both}), but systems learn from it "
                f"to draw {parts}: contour them apart; only the other observers may join them"
            )
            raise ValueError(msg)
    if missing := [organ for organ in organs.organs.values() if organ not in drawn]:
        msg = f"observer1 draws no {' and no '.join(missing)}, and nobody could learn it"
        raise ValueError(msg)


def find_scans(folder: Path, group: Group) -> list[ScanFiles]:
    """Find every scan of a group below a folder, ordered by animal and time.

    Raises
    ------
    ConfigWrong
        If there is no scan, another number than the layout states, or two files fit one scan.
    """
    images, contours = _files_of(folder, group)
    if group.scans and len(images) != group.scans:
        msg = f"{folder}: {len(images)} scans fit [{group.name}] ct, {group.scans} expected"
        raise ConfigWrong(msg)
    if not images:
        msg = f"{folder}: nothing fits [{group.name}] ct = {list(group.ct)}; mend the layout"
        raise ConfigWrong(msg)
    return [
        ScanFiles(
            group,
            f"{group.name}-{animal}",
            time,
            folder / path,
            {
                name: folder / path_of[animal, time]
                for name, path_of in contours.items()
                if (animal, time) in path_of
            },
        )
        for (animal, time), path in sorted(images.items())
        if f"{animal}_{time}" not in group.leave_out
    ]


def odd_names(folder: Path) -> list[Path]:
    """Files and folders that are passed over, because no table takes their names."""
    return [
        Path(walked, name)
        for walked, folders, files in os.walk(folder)
        for name in sorted((*folders, *files))
        if not name.isprintable() and walked.removeprefix(str(folder)).isprintable()
    ]


def contours_without_ct(folder: Path, group: Group) -> list[Path]:
    """Contours whose CT is missing or has another name than theirs."""
    images, contours = _files_of(folder, group)
    return [
        folder / path
        for path_of in contours.values()
        for scan, path in sorted(path_of.items())
        if scan not in images
    ]


def _files_of(
    folder: Path, group: Group
) -> tuple[dict[tuple[str, str], str], dict[str, dict[tuple[str, str], str]]]:
    """(animal, time) to its CT, and for each observer to the contours; relative paths."""
    paths = _paths_below(folder)
    images = _matching(paths, group.ct, f"{folder}: [{group.name}] ct")
    contours = {
        name: _matching(paths, observer.files, f"{folder}: [{group.name}.{name}] files")
        for name, observer in group.observers.items()
    }
    return images, contours


def _paths_below(folder: Path) -> list[str]:
    """Relative paths of files and folders; follows links to folders, where large data may lie.

    Names that can't be shown are left out (`odd_names`).
    """
    paths: list[str] = []
    for walked, folders, files in os.walk(folder, followlinks=True):
        here = Path(walked)
        # A link to a folder above itself would be followed without end.
        above = {here.resolve(), *here.resolve().parents}
        parents = [here, *here.parents][: len(here.relative_to(folder).parts) + 1]
        above.update(parent.resolve() for parent in parents)
        folders[:] = [name for name in folders if (here / name).resolve() not in above]
        names = [name for name in (*folders, *files) if name.isprintable()]
        folders[:] = [name for name in folders if name.isprintable()]
        paths += ((here / name).relative_to(folder).as_posix() for name in names)
    return sorted(paths)


def _matching(
    paths: Iterable[str], patterns: Sequence[str], key: str
) -> dict[tuple[str, str], str]:
    """(animal, time) to its path; an earlier pattern has precedence over a later one."""
    path_list = list(paths)
    path_of: dict[tuple[str, str], str] = {}
    for pattern in patterns:
        expression = _expression(pattern)
        fitting: dict[tuple[str, str], str] = {}
        for path in path_list:
            if match := expression.fullmatch(path):
                scan = (_animal(match), match["time"])
                if scan in fitting:
                    msg = f"{key}: {fitting[scan]} and {path} both fit {pattern!r}; which is it?"
                    raise ConfigWrong(msg)
                fitting[scan] = path
        path_of = fitting | path_of
    return path_of


def _animal(match: re.Match[str]) -> str:
    """The animal's name, after that of its study if the pattern has one."""
    study = match.groupdict().get("study")
    return match["animal"] if study is None else f"{'-'.join(study.split())}-{match['animal']}"


def _expression(pattern: str) -> re.Pattern[str]:
    if "}*" in pattern or "*{" in pattern or "}{" in pattern:
        msg = f"{pattern!r}: something must stand between a {{name}} and what follows"
        raise ValueError(msg)
    expression = ""
    named: set[str] = set()
    for part in re.split(r"(\{animal\}|\{time\}|\{study\}|\*)", pattern):
        if part in _PARTS:
            name = _PARTS[part]
            # Lazy: as few characters as the rest of the pattern allows.
            expression += f"(?P={name})" if name in named else f"(?P<{name}>[^/]+?)"
            named.add(name)
        else:
            expression += "[^/]*" if part == "*" else re.escape(part)
    if missing := _NEEDED - named:
        msg = f"{pattern!r} lacks {{{sorted(missing)[0]}}}, which tells scans apart"
        raise ValueError(msg)
    return re.compile(expression)


def _group(name: str, table: Any) -> Group:
    if not isinstance(table, dict):
        msg = "is not a group of scans; is this file a layout?"
        raise TypeError(msg)
    known = {field.name for field in fields(Group)} - {"name", "observers"} | set(OBSERVERS)
    _refuse_unknown(table, known)
    if "observer1" not in table:
        msg = "observer1 is missing: systems learn from its contours"
        raise ValueError(msg)
    spacing_mm = float(table.get("spacing_mm", 0.0))
    if not math.isfinite(spacing_mm) or spacing_mm < 0:
        msg = f"spacing_mm {spacing_mm}: the edge of a voxel in mm expected, or 0 to allow any"
        raise ValueError(msg)
    return Group(
        name=name,
        contrast=_bool(table, "contrast"),
        ct=_patterns(table, "ct"),
        axes=_axes(table, ""),
        spacing_mm=spacing_mm,
        scans=int(table.get("scans", 0)),
        leave_out=tuple(str(scan) for scan in table.get("leave_out", ())),
        observers={
            observer: _observer(table[observer], observer)
            for observer in OBSERVERS
            if observer in table
        },
    )


def _observer(table: Mapping[str, Any], name: str) -> ObserverLayout:
    kinds = [kind for kind in Kind if kind.value in table]
    _refuse_unknown(table, {"files", "axes", "resample", *(kind.value for kind in Kind)}, name)
    if len(kinds) != 1:
        msg = f"{name}: one of {', '.join(kind.value for kind in Kind)} expected"
        raise ValueError(msg)
    organs = table[kinds[0].value]
    names = {
        named_organ(organ): tuple(
            str(word) for word in (words if isinstance(words, list) else [words])
        )
        for organ, words in organs.items()
    }
    organ_of: dict[str, Organ] = {}
    for organ, words in names.items():
        for word in (name.strip().casefold() for name in words):
            if organ_of.setdefault(word, organ) != organ:
                msg = (
                    f"{name}.{kinds[0].value}: {organ_of[word]} and {organ} are both called "
                    f"{word!r}"
                )
                raise ValueError(msg)
    return ObserverLayout(
        files=_patterns(table, "files"),
        kind=kinds[0],
        names=names,
        axes=_axes(table, name),
        resample=_bool(table, "resample"),
    )


def _refuse_unknown(table: Mapping[str, Any], known: set[str], name: str = "") -> None:
    if unknown := sorted(set(table) - known):
        msg = f"{name}{'.' * bool(name)}{unknown[0]}: one of {', '.join(sorted(known))} expected"
        raise ValueError(msg)


def _patterns(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    if key not in table:
        msg = f"{key} is missing"
        raise ValueError(msg)
    patterns = table[key] if isinstance(table[key], list) else [table[key]]
    for pattern in patterns:
        _expression(pattern)
    return tuple(patterns)


def _axes(table: Mapping[str, Any], name: str) -> str:
    axes = str(table.get("axes", ""))
    # One letter of each pair, in any order.
    if axes and {frozenset(pair) & set(axes) for pair in ("LR", "PA", "SI")} != {
        frozenset(letter) for letter in axes
    }:
        msg = f"{name}{'.' * bool(name)}axes {axes!r}: such as 'SPL' or 'SAR' expected"
        raise ValueError(msg)
    return axes


def _bool(table: Mapping[str, Any], key: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        msg = f"{key} = {value!r}: true or false expected"
        raise TypeError(msg)
    return value
