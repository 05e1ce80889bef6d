"""A data set of a node's scans with the structure sets that persons sent back (D-264).

The scans are laid out as a site's folder, by links, and imported as any other one: with the same
checks. An animal that was in the data set before keeps its side and its fold. ``returned.csv``
beside the manifest says whose contours each scan has.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from limn.domain.edits.corrections import CorrectedScan, usable_scans
from limn.domain.errors import ConfigWrong
from limn.domain.files import write_durably
from limn.domain.one_line import name_from
from limn.domain.spreadsheet import neutral
from limn.lab.data.dataset import MANIFEST, SEED, SPLIT, import_folder, read_dataset
from limn.lab.data.split import FOLDS, Split, as_toml, read_split
from limn.phantom.cohort import TRAINING_SHARE

# As in config/site-dicom.toml: animals have the same names in a data set of both.
GROUP = "site"
TABLE = "returned.csv"
COLUMNS = (
    *("scan", "scan_id", "animal", "corrected_by", "came_utc", "accepted"),
    *("structure_set_sha256", "bundle_sha256", "dsc"),
)
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def import_returned(
    corrected: Sequence[CorrectedScan],
    out: Path,
    split: Path | None,
    report: Callable[[str], None],
    organs: Path | None = None,
) -> None:
    """Make a data set of corrected scans, or let one grow.

    Parameters
    ----------
    split : TOML as in `limn.lab.data.split`; without it that of ``out``, if it has one. An animal
        that it does not name gets a place beside those that it names
    organs : as of `import_folder`

    Raises
    ------
    ConfigWrong
        As `import_folder`, or if no scan can be used.
    """
    usable = list(usable_scans(corrected, report))
    if not usable:
        msg = "no corrected scan can be used; each is named above with the reason"
        raise ConfigWrong(msg)
    _refuse_loss(usable, out)
    before = _bytes_of(out / SPLIT)
    with tempfile.TemporaryDirectory(prefix="limn-returned-") as made:
        source = Path(made) / "scans"
        for each in usable:
            _lay_out(each, source)
        layout, sides = Path(made) / "layout.toml", split
        layout.write_text(_layout(usable), encoding="utf-8")
        if split is not None or before:
            base = read_split(split or out / SPLIT)
            sides = Path(made) / SPLIT
            grown = grown_split(base, [f"{GROUP}-{_folder(each.animal)}" for each in usable])
            sides.write_text(as_toml(grown), encoding="utf-8")
        try:
            import_folder(source, out, layout, sides, report, organs)
        finally:
            # A failed import takes the split away, and the next one would draw another.
            if before and not (out / SPLIT).exists():
                write_durably(out / SPLIT, before)
    _write_table(usable, out)


def grown_split(split: Split, animals: Iterable[str]) -> Split:
    """The split with further animals; those that it names stay where they are.

    As many of four train as where a split is drawn; one that trains joins the smallest fold.
    """
    new = sorted(set(animals) - {*split.training, *split.test1, *split.test2})
    test1, folds = list(split.test1), [list(fold) for fold in split.folds]
    for index in np.random.default_rng(SEED).permutation(len(new)):
        trained, tested = sum(map(len, folds)), len(test1)
        if trained and tested + 1 <= round((1 - TRAINING_SHARE) * (trained + tested + 1)):
            test1.append(new[index])
        elif len(folds) < FOLDS:
            folds.append([new[index]])
        else:
            min(folds, key=len).append(new[index])
    return Split(tuple(test1), split.test2, tuple(tuple(sorted(fold)) for fold in folds))


def _refuse_loss(usable: Sequence[CorrectedScan], out: Path) -> None:
    """An import replaces the data set: what the node has no more would be lost."""
    if not (out / MANIFEST).exists():
        return
    here = {_name(each) for each in usable}
    if lost := [entry.scan for entry in read_dataset(out) if entry.scan not in here]:
        msg = (
            f"{out} has {len(lost)} scans that can't be imported again, such as {lost[0]}; keep it "
            f"and import into a new folder with --split {out / SPLIT}"
        )
        raise ConfigWrong(msg)


def _bytes_of(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _folder(animal: str) -> str:
    """An animal's folder: its name, or one made of it that no other animal has."""
    if _PLAIN.fullmatch(animal):
        return animal
    digest = hashlib.sha256(animal.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name_from(animal)).strip("_-")
    return f"{plain}-{digest}" if plain else digest


def _name(each: CorrectedScan) -> str:
    """The scan's name in the data set."""
    return f"{GROUP}-{_folder(each.animal)}-{each.scan}"


def _lay_out(each: CorrectedScan, source: Path) -> None:
    folder = source / _folder(each.animal) / each.scan
    (folder / "CT").mkdir(parents=True)
    for number, path in enumerate(each.slices):
        # Slices of several folders may share their names.
        _link(path, folder / "CT" / f"{number:06d}-{path.name}")
    _link(each.structure_set, folder / "RS.dcm")


def _link(path: Path, target: Path) -> None:
    """Show a file under a name that nothing has yet; a copy where links are not allowed."""
    try:
        target.symlink_to(path.absolute())
    except FileExistsError:
        # A copy would go through the link that is there, into a slice of the site.
        raise
    except OSError:
        shutil.copyfile(path, target)


def _layout(usable: Sequence[CorrectedScan]) -> str:
    """The layout of the links; of an ROI every name that it has in some structure set."""
    names: dict[str, dict[str, None]] = {}
    for each in usable:
        for organ, roi in each.organs.items():
            names.setdefault(organ, {})[roi] = None
    rois = ", ".join(
        f"{json.dumps(organ)} = {json.dumps(list(known))}" for organ, known in names.items()
    )
    return (
        f'[{GROUP}]\ncontrast = false\nct = ["{{animal}}/{{time}}/CT"]\n'
        f'[{GROUP}.observer1]\nfiles = ["{{animal}}/{{time}}/RS.dcm"]\nrois = {{ {rois} }}\n'
    )


def _write_table(usable: Iterable[CorrectedScan], out: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    entered = {entry.scan for entry in read_dataset(out)}
    for each in usable:
        if _name(each) not in entered:
            continue
        digest = hashlib.sha256(each.structure_set.read_bytes()).hexdigest()
        cells = (
            *(_name(each), each.scan, each.animal, each.editor, each.came_utc),
            *("yes" if each.accepted else "no", digest, each.bundle_sha256),
            " ".join(f"{organ}:{dsc:.4f}" for organ, dsc in each.dsc.items()),
        )
        writer.writerow([neutral(cell) for cell in cells])
    write_durably(out / TABLE, text.getvalue().encode())
