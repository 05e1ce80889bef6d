"""Writes a folder of CT series and structure sets anew, without the identities in it."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path

from limn.dicom.bounded import DAMAGES, read
from limn.domain.errors import ConfigWrong, StageFailed
from limn.domain.files import new_folder, write_durably
from limn.domain.folders import files_below, writable
from limn.domain.one_line import one_line
from limn.lab.export.burnt_in import PixelDoubt
from limn.lab.export.deidentify import ExportRules, HeaderChanges, Pseudonym, deidentified
from limn.lab.export.report import ExportSummary, as_csv, as_page
from limn.lab.export.survey import Survey, SurveyedFile, look_through, places

Report = Callable[[str], None]
TABLE, PAGE = "deidentification.csv", "deidentification.html"
# An animal's dates move back by 5 to 15 years, or by more if the input spans more.
LEAST_DAYS, SPREAD_DAYS = 1826, 3652
PREFIXES = "MXZQ"


@dataclass(frozen=True, slots=True)
class ExportKey:
    """What joins an export to the animals of its site; it stays at the site.

    Attributes
    ----------
    animals : the input's name of an animal to what the export calls it
    """

    secret: bytes
    animals: Mapping[str, Pseudonym]


@dataclass(slots=True)
class _Export:
    changes: HeaderChanges = field(default_factory=HeaderChanges)
    doubts: list[str] = field(default_factory=list)
    files: int = 0
    structure_sets: int = 0


def export_folder(
    source: Path, out: Path, key_file: Path | None, keep_rois: Collection[str], report: Report
) -> None:
    """De-identify every CT series below a folder and the structure sets drawn on them.

    Parameters
    ----------
    out : a folder that is new or empty
    key_file : keeps the secret and the animals' names, so that a later export of the same animals
        fits this one; None forgets them
    keep_rois : names of ROIs that a person has read and lets pass

    Raises
    ------
    ConfigWrong
        If a path can't be used, or the source holds no CT image.
    StageFailed
        If an identity would leave, or coordinates would change; nothing is left in ``out``.
    """
    if not source.is_dir():
        msg = f"{source} is not a folder; give the folder that holds the DICOM files"
        raise ConfigWrong(msg)
    export_files(files_below(source), source, out, key_file, keep_rois, report)


def export_files(
    files: Sequence[Path],
    source: Path,
    out: Path,
    key_file: Path | None,
    keep_rois: Collection[str],
    report: Report,
    organs: Mapping[Path, Mapping[str, str]] | None = None,
) -> None:
    """De-identify the CT series among some files, and the structure sets drawn on them.

    Parameters
    ----------
    source : the folder that holds them; ``out`` may not lie in it
    out, key_file, keep_rois : as of `export_folder`
    organs : of a structure set, the names of ROIs to the organ that each is known to be

    Raises
    ------
    ConfigWrong, StageFailed
        As `export_folder`.
    """
    _refuse_places(source, out, key_file)
    survey = look_through(files)
    for path, reason in survey.left_out:
        report(f"left out: {one_line(path)}: {reason}")
    if not any(each.is_ct for each in survey.files):
        msg = f"{source} holds no CT image: give the folder of the DICOM series"
        raise ConfigWrong(msg)
    key = _key(survey, key_file)
    if out.exists():
        out.rmdir()
    with new_folder(out) as part:
        written = _write(survey, key, (keep_rois, organs or {}), part, report)
        summary = ExportSummary(
            animals=len({each.animal for each in survey.files if each.is_ct}),
            series=len({each.series for each in survey.files if each.is_ct}),
            structure_sets=written.structure_sets,
            files=written.files,
            left_out=dict(Counter(_kind(reason) for _, reason in survey.left_out)),
            doubts=tuple(written.doubts),
        )
        write_durably(part / TABLE, as_csv(written.changes).encode())
        write_durably(part / PAGE, as_page(written.changes, summary).encode())
        # Before the export has its name: one without its key can't be joined to its animals.
        if key_file is not None:
            _keep(key, key_file)
    if key_file is not None:
        report(f"{key_file} says which animal is which: it stays here")
    for doubt in written.doubts:
        report(f"WARNING {doubt}")
    report(
        f"{out}: {written.files} files of {summary.animals} animals; read {PAGE} before it leaves"
    )


def _refuse_places(source: Path, out: Path, key_file: Path | None) -> None:
    here, there = out.resolve(), source.resolve()
    if here == there or here in there.parents or there in here.parents:
        msg = f"{out} may not be {source}, lie in it or hold it; give a new folder for the export"
        raise ConfigWrong(msg)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        msg = f"{out} is not empty; give a new folder, so that nothing older leaves with the export"
        raise ConfigWrong(msg)
    writable(out.absolute().parent)
    if key_file is None:
        return
    if here in (key_file.resolve(), *key_file.resolve().parents):
        msg = f"{key_file} would leave with {out}: keep the key elsewhere"
        raise ConfigWrong(msg)
    writable(key_file.absolute().parent)


def _key(survey: Survey, path: Path | None) -> ExportKey:
    """The key of earlier exports with the animals of this one."""
    secret, animals = secrets.token_bytes(32), dict[str, Pseudonym]()
    if path is not None and path.exists():
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            secret = bytes.fromhex(kept["secret"])
            animals = {name: Pseudonym(**own) for name, own in kept["animals"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            msg = f"{path} is no key of limn lab export ({error}); give another file"
            raise ConfigWrong(msg) from error
    prefix = _prefix(survey)
    fewest_days = max(LEAST_DAYS, survey.days + 1)

    def drawn(name: str) -> int:
        digest = hmac.new(secret, f"animal {name}".encode(), hashlib.sha256).digest()
        return int.from_bytes(digest[:8], "big")

    # In no order of their names, which may be that of the study's groups.
    numbers = count(len(animals) + 1)
    for name in sorted(set(survey.animals) - set(animals), key=drawn):
        days = fewest_days + drawn(name) % SPREAD_DAYS
        # Where a person has taken an animal out of the key, the next number may be another's.
        taken = {own.name for own in animals.values()}
        free = next(own for number in numbers if (own := f"{prefix}{number:03d}") not in taken)
        animals[name] = Pseudonym(free, days)
    return ExportKey(secret, animals)


def _prefix(survey: Survey) -> str:
    """A letter with which no name of the input and a number begin."""
    taken = {
        name[0].upper()
        for name in (*survey.identities.names, *survey.animals)
        if name[1:].isdecimal()
    }
    return next((letter for letter in PREFIXES if letter not in taken), "ANIMAL")


def _keep(key: ExportKey, path: Path) -> None:
    table = {
        "secret": key.secret.hex(),
        "animals": {name: asdict(own) for name, own in key.animals.items()},
    }
    write_durably(path, (json.dumps(table, indent=1) + "\n").encode(), mode=0o600)


def _write(
    survey: Survey,
    key: ExportKey,
    rois: tuple[Collection[str], Mapping[Path, Mapping[str, str]]],
    out: Path,
    report: Report,
) -> _Export:
    place_of, written = places(survey.files), _Export()
    series: dict[str, list[SurveyedFile]] = {}
    for each in survey.files:
        if each.is_ct:
            series.setdefault(each.series, []).append(each)
    for number, (uid, slices) in enumerate(sorted(series.items()), start=1):
        animal = key.animals[slices[0].animal]
        rules = ExportRules(key.secret, animal, survey.identities, rois[0])
        folder = out / animal.name / place_of[uid]
        _write_series(slices, rules, folder, written)
        drawn_on = [each for each in survey.files if uid in each.references]
        for k, structure_set in enumerate(drawn_on, start=1):
            own = replace(rules, organs=rois[1].get(structure_set.path, {}))
            _write_file(structure_set, own, folder / f"RS-{k}.dcm", written)
            written.structure_sets += 1
        report(f"{number}/{len(series)} {animal.name} {place_of[uid]}: {len(slices)} slices")
    lost = [
        each for each in survey.files if not each.is_ct and not set(each.references) & set(series)
    ]
    if lost:
        written.doubts.append(f"{len(lost)} structure sets were left out: their CT is not here")
    return written


def _write_series(
    slices: Sequence[SurveyedFile], rules: ExportRules, folder: Path, written: _Export
) -> None:
    in_order = sorted(slices, key=lambda each: (each.instance, each.sop_instance))
    doubt = PixelDoubt()
    for k, each in enumerate(in_order, start=1):
        _write_file(each, rules, folder / "CT" / f"{k:04d}.dcm", written, doubt)
    where = f"{rules.animal.name} {folder.name}"
    if any(each.burnt_in for each in slices):
        written.doubts.append(f"{where}: the header says that text is burnt into the pixels")
    if doubt.pixels:
        written.doubts.append(
            f"{where}: {doubt.pixels} pixels are the same in every slice, as burnt-in text is; "
            "look at a slice"
        )
    if doubt.unread:
        written.doubts.append(
            f"{where}: {doubt.unread} slices are compressed and were not looked at for text"
        )


def _write_file(
    found: SurveyedFile,
    rules: ExportRules,
    path: Path,
    written: _Export,
    doubt: PixelDoubt | None = None,
) -> None:
    try:
        ds = read(found.path)
        if doubt is not None:
            doubt.add(ds)
        contents, changes = deidentified(ds, rules)
    except DAMAGES as error:
        msg = f"{one_line(found.path)} can't be exported: {error}; leave it out, or mend it"
        raise StageFailed(msg) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, contents)
    written.changes.add(changes)
    written.files += 1


def _kind(reason: str) -> str:
    """A reason without what may stand in a file of the input."""
    return reason.split(" (", 1)[0]
