"""How others lay out their scans and contours in folders: a TOML file of patterns.

Each table is a group of animals, such as ``[native]``. A pattern is a path below the folder, in
which ``{animal}`` and ``{time}`` stand for what names a scan and ``*`` for anything within one
name; of several patterns the first that fits a scan counts. `config/rosenhain-zenodo.toml` shows
every key.
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
from limn.phantom.anatomy import TRUTH_LABELS
from limn.phantom.observers import LUNGS

OBSERVERS = ("observer1", "observer2", "observer3")
LABEL_OF: Mapping[str, int] = {organ.value: label for label, organ in TRUTH_LABELS.items()} | {
    "Lungs": LUNGS
}
_PARTS = {"{animal}": "animal", "{time}": "time"}


class Kind(Enum):
    """How a file of contours says which organ is which; the key of its table in a layout."""

    LABELS = "labels"
    CLASSES = "classes"
    ROIS = "rois"


@dataclass(frozen=True, slots=True)
class Contours:
    """Where the contours of one observer are, and what they are called.

    Attributes
    ----------
    files : patterns
    names : organ, or "Lungs" for both as one, to what the file calls it: label numbers
        (`Kind.LABELS`), names in the ``.cls`` file beside it (`Kind.CLASSES`), ROI names
    axes : what the array's axes (z, y, x) grow towards, such as "SAR"; "" where the header says it
    resample : it may lie on voxels of another size, and is brought to the CT's by nearest neighbour
    """

    files: tuple[str, ...]
    kind: Kind
    names: Mapping[str, tuple[str, ...]]
    axes: str
    resample: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Animals that were scanned alike.

    Attributes
    ----------
    contrast : they were given a contrast agent
    ct : patterns of image files, or of folders with one DICOM series each
    axes : as in `Contours`, of the CT
    spacing_mm : of the CT's voxels; 0 if any will do
    scans : how many there must be; 0 if any number will do
    leave_out : scans that are known to be bad, ANIMAL_TIME
    """

    name: str
    contrast: bool
    ct: tuple[str, ...]
    axes: str
    spacing_mm: float
    scans: int
    leave_out: tuple[str, ...]
    observers: Mapping[str, Contours]


@dataclass(frozen=True, slots=True)
class Found:
    """One scan of somebody's folder, before anything is opened."""

    group: Group
    animal: str
    time: str
    ct: Path
    contours: Mapping[str, Path]

    @property
    def name(self) -> str:
        """The scan's name in our data set; no other has it."""
        return f"{self.animal}-{self.time}"


def read_layout(path: Path) -> tuple[Group, ...]:
    """The groups of a layout.

    Raises
    ------
    ConfigWrong
        If it can't be read or a key is wrong; the text names it.
    """
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path} can't be read as a layout: {error}"
        raise ConfigWrong(msg) from error
    groups = []
    for name, table in said.items():
        try:
            groups.append(_group(name, table))
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            msg = f"{path}: [{name}]: {error}"
            raise ConfigWrong(msg) from error
    if not groups:
        msg = f"{path}: no group of scans; a table such as [native] expected"
        raise ConfigWrong(msg)
    return tuple(groups)


def find_scans(folder: Path, group: Group) -> list[Found]:
    """Every scan of a group below a folder, in the order of animals and times.

    Raises
    ------
    ConfigWrong
        If there are none or another number than the layout says, or two files fit one scan.
    """
    images, contours = _files_of(folder, group)
    if group.scans and len(images) != group.scans:
        msg = f"{folder}: {len(images)} scans fit [{group.name}] ct, {group.scans} expected"
        raise ConfigWrong(msg)
    if not images:
        msg = f"{folder}: nothing fits [{group.name}] ct = {list(group.ct)}; mend the layout"
        raise ConfigWrong(msg)
    return [
        Found(
            group,
            f"{group.name}-{animal}",
            time,
            folder / path,
            {
                name: folder / own[animal, time]
                for name, own in contours.items()
                if (animal, time) in own
            },
        )
        for (animal, time), path in sorted(images.items())
        if f"{animal}_{time}" not in group.leave_out
    ]


def contours_without_ct(folder: Path, group: Group) -> list[Path]:
    """What an observer drew on scans that are not here, or that have another name than theirs."""
    images, contours = _files_of(folder, group)
    return [
        folder / path
        for own in contours.values()
        for scan, path in sorted(own.items())
        if scan not in images
    ]


def _files_of(
    folder: Path, group: Group
) -> tuple[dict[tuple[str, str], str], dict[str, dict[tuple[str, str], str]]]:
    """(animal, time) to its CT, and of every observer to what he drew; relative."""
    paths = _everything_below(folder)
    images = _matching(paths, group.ct, f"{folder}: [{group.name}] ct")
    contours = {
        name: _matching(paths, own.files, f"{folder}: [{group.name}.{name}] files")
        for name, own in group.observers.items()
    }
    return images, contours


def _everything_below(folder: Path) -> list[str]:
    """Files and folders, relative, links to folders followed: large data lies elsewhere."""
    found: list[str] = []
    for place, folders, files in os.walk(folder, followlinks=True):
        here = Path(place)
        # A link to a folder that it lies in would never end.
        above = {here.resolve(), *here.resolve().parents}
        way = [here, *here.parents][: len(here.relative_to(folder).parts) + 1]
        above.update(each.resolve() for each in way)
        folders[:] = [name for name in folders if (here / name).resolve() not in above]
        found += ((here / name).relative_to(folder).as_posix() for name in (*folders, *files))
    return sorted(found)


def _matching(
    paths: Iterable[str], patterns: Sequence[str], key: str
) -> dict[tuple[str, str], str]:
    """(animal, time) to the path that the first fitting pattern fits."""
    listed = list(paths)
    found: dict[tuple[str, str], str] = {}
    for pattern in patterns:
        form = _form(pattern)
        here: dict[tuple[str, str], str] = {}
        for path in listed:
            if fits := form.fullmatch(path):
                scan = (fits["animal"], fits["time"])
                if scan in here:
                    msg = f"{key}: {here[scan]} and {path} both fit {pattern!r}; which is it?"
                    raise ConfigWrong(msg)
                here[scan] = path
        found = here | found
    return found


def _form(pattern: str) -> re.Pattern[str]:
    if "}*" in pattern or "*{" in pattern or "}{" in pattern:
        msg = f"{pattern!r}: something must stand between a {{name}} and what follows"
        raise ValueError(msg)
    written = ""
    seen: set[str] = set()
    for part in re.split(r"(\{animal\}|\{time\}|\*)", pattern):
        if part in _PARTS:
            name = _PARTS[part]
            # As little of a name as the rest of the pattern allows.
            written += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
            seen.add(name)
        else:
            written += "[^/]*" if part == "*" else re.escape(part)
    if missing := set(_PARTS.values()) - seen:
        msg = f"{pattern!r} lacks {{{sorted(missing)[0]}}}, which tells scans apart"
        raise ValueError(msg)
    return re.compile(written)


def _group(name: str, table: Any) -> Group:
    if not isinstance(table, dict):
        msg = "is no group of scans; is this file a layout?"
        raise TypeError(msg)
    known = {field.name for field in fields(Group)} - {"name", "observers"} | set(OBSERVERS)
    _refuse_unknown(table, known)
    if "observer1" not in table:
        msg = "observer1 is missing: whose contours are learnt from"
        raise ValueError(msg)
    spacing_mm = float(table.get("spacing_mm", 0.0))
    if not math.isfinite(spacing_mm) or spacing_mm < 0:
        msg = f"spacing_mm {spacing_mm}: the edge of a voxel in mm expected, 0 if any will do"
        raise ValueError(msg)
    group = Group(
        name=name,
        contrast=_bool(table, "contrast"),
        ct=_patterns(table, "ct"),
        axes=_axes(table, ""),
        spacing_mm=spacing_mm,
        scans=int(table.get("scans", 0)),
        leave_out=tuple(str(scan) for scan in table.get("leave_out", ())),
        observers={own: _contours(table[own], own) for own in OBSERVERS if own in table},
    )
    if "Lungs" in group.observers["observer1"].names:
        msg = (
            "observer1 has both lungs as one (Lungs), but is learnt from, and systems draw Lung_R "
            "and Lung_L: have them contoured apart; only the other observers may join them"
        )
        raise ValueError(msg)
    return group


def _contours(table: Mapping[str, Any], name: str) -> Contours:
    kinds = [kind for kind in Kind if kind.value in table]
    _refuse_unknown(table, {"files", "axes", "resample", *(kind.value for kind in Kind)}, name)
    if len(kinds) != 1:
        msg = f"{name}: one of {', '.join(kind.value for kind in Kind)} expected"
        raise ValueError(msg)
    said = table[kinds[0].value]
    if wrong := [organ for organ in said if organ not in LABEL_OF]:
        msg = f"{name}.{kinds[0].value}: {wrong[0]!r}: one of {', '.join(LABEL_OF)} expected"
        raise ValueError(msg)
    names = {
        organ: tuple(str(each) for each in (own if isinstance(own, list) else [own]))
        for organ, own in said.items()
    }
    called: dict[str, str] = {}
    for organ, words in names.items():
        for word in (each.strip().casefold() for each in words):
            if called.setdefault(word, organ) != organ:
                msg = (
                    f"{name}.{kinds[0].value}: {called[word]} and {organ} are both called {word!r}"
                )
                raise ValueError(msg)
    return Contours(
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
    own = table[key] if isinstance(table[key], list) else [table[key]]
    for pattern in own:
        _form(pattern)
    return tuple(own)


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
