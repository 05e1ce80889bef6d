"""A training of nnU-Net, v1 or v2, as a bundle: read, asked about, checked, sealed."""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from limn.domain.errors import BundleUnfit, ConfigWrong, LimnError
from limn.domain.scan import Organ
from limn.segment.bundle import shelf
from limn.segment.bundle.bundle import MANIFEST, Bundle, open_bundle
from limn.segment.bundle.shelf import models_dir
from limn.segment.engine.plans import check_numbers

if TYPE_CHECKING:
    from limn.segment.importing.axis_search import AxisTrial
    from limn.segment.importing.trained import BundleStatement, Trained

# What of an archive is unpacked: a result folder also holds predictions and pictures.
WANTED = (
    "plans.pkl", "plans.json", "dataset.json", "postprocessing.json", "*.model", "*.model.pkl",
    "fold_*/*.pth", MANIFEST,
)  # fmt: skip
SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What the command line says about a model; None where it is silent."""

    name: str | None = None
    version: str = "1"
    labels: str | None = None
    orientation: str | None = None
    configuration: str | None = None
    checkpoint: str | None = None
    trained_on: str | None = None
    not_for: str | None = None
    expected_hu: str | None = None
    source: str = ""
    previous: str = ""
    check: Path | None = None


def import_model(given: Path | None, source: Path, asked: ImportOptions) -> None:
    """A training of nnU-Net, v1 or v2, folder or zip, as an installed bundle."""
    console = Console(highlight=False)
    target_folder = models_dir(given)
    with shelf.incoming(target_folder) as work:
        sealed = import_to(source, work / "bundle", asked, console, target_folder)
        bundle = open_bundle(sealed)
        check_numbers(bundle)
        target = shelf.place(target_folder, bundle.label)
        shelf.put(sealed, target)
    tell_installed(console, target)
    if (problem := _runs(open_bundle(target))) is not None:
        console.print(f"[yellow]can't run here:[/] {escape(problem)}")


def tell_installed(console: Console, target: Path) -> None:
    """Say where a bundle was installed, and the line of the config that names it."""
    console.print(f"installed {target}", soft_wrap=True, markup=False)
    console.print(
        f'in the site\'s config, below [model]: bundle = "{target}"', soft_wrap=True, markup=False
    )


def import_to(
    source: Path, folder: Path, asked: ImportOptions, console: Console, standing: Path | None = None
) -> Path:
    """A training of nnU-Net as a bundle in a new folder; asks on a terminal what is not said.

    Parameters
    ----------
    standing : where bundles are installed; a name that stands there is refused before anything
        is tried or copied
    """
    if asked.check is not None and not asked.check.is_dir():
        msg = f"--check {asked.check} is no folder"
        raise ConfigWrong(msg)
    with shelf.opened(source, WANTED) as unpacked:
        trained = _read(unpacked, source, asked)
        console.print(
            f"{trained.made_by} {trained.configuration}, {trained.name}: "
            f"{len(trained.folds)} folds, {len(trained.labels)} labels, "
            f"{' x '.join(f'{mm:g}' for mm in trained.spacing_mm)} mm, patch "
            f"{trained.plans['configurations'][trained.configuration]['patch_size']}, "
            f"transpose_forward {trained.plans['transpose_forward']}",
            markup=False,
        )
        for note in trained.notes:
            console.print(f"[yellow]note:[/] {escape(note)}")
        told = _told(trained, source, asked)
        if standing is not None:
            _refuse_standing(shelf.place(standing, f"{told.name}-{told.version}"))
        if asked.check is not None:
            told = _checked(trained, told, folder, asked.check, console)
        if not told.orientation:
            told = replace(told, orientation=_ask_orientation(None))
        _seal(trained, told, folder)
    return folder


def _refuse_standing(target: Path) -> None:
    if target.exists():
        msg = f"{target} exists; nothing was changed. Give another --name or --version"
        raise BundleUnfit(msg)


def _seal(trained: Trained, told: BundleStatement, folder: Path) -> Bundle:
    from limn.segment.importing.trained import seal  # noqa: PLC0415

    try:
        return seal(trained, told, folder)
    except OSError as error:
        msg = f"{folder}: {error.strerror or error}"
        raise BundleUnfit(msg) from error


def _read(folder: Path, source: Path, asked: ImportOptions) -> Trained:
    from limn.segment.importing import import_v1, import_v2  # noqa: PLC0415

    names = {"v1": asked.checkpoint or import_v1.CHECKPOINT}
    names["v2"] = asked.checkpoint or import_v2.CHECKPOINT
    candidates = sorted({path.parent.parent for path in folder.rglob(f"*/{names['v1']}.model")})
    readers: list[tuple[Path, Callable[[], Trained]]] = [
        (path, lambda path=path: import_v1.read_v1(path, names["v1"]))  # type: ignore[misc]
        for path in candidates
    ]
    candidates = sorted({path.parent.parent for path in folder.rglob(f"*/{names['v2']}.pth")})
    readers += [
        (path, lambda path=path: import_v2.read_v2(path, names["v2"]))  # type: ignore[misc]
        for path in candidates
        if (path / "plans.json").is_file() and not (path / MANIFEST).is_file()
    ]
    if asked.configuration and len(readers) > 1:
        # v1 names a folder after it, v2 ends a folder's name with it.
        ends = (asked.configuration, f"__{asked.configuration}")
        readers = [own for own in readers if any(part.endswith(ends) for part in own[0].parts)]
        readers = readers or [(folder, _nothing(source, asked))]
    if not readers and (folder / MANIFEST).is_file():
        msg = f"{source} is a bundle already: limn models install {source}"
        raise BundleUnfit(msg)
    if not readers:
        _nothing(source, asked)()
    if len(readers) > 1:
        listed = "; ".join(str(path.relative_to(folder)) for path, _ in readers)
        msg = f"{source} holds {len(readers)} models; choose one by --configuration: {listed}"
        raise BundleUnfit(msg)
    trained = readers[0][1]()
    if asked.configuration and trained.configuration != asked.configuration:
        msg = f"{source} is {trained.configuration}, --configuration says {asked.configuration}"
        raise BundleUnfit(msg)
    return trained


def _nothing(source: Path, asked: ImportOptions) -> Callable[[], Trained]:
    def refuse() -> Trained:
        where = f" of configuration {asked.configuration}" if asked.configuration else ""
        msg = (
            f"{source} holds no training of nnU-Net{where}: neither "
            f"fold_*/{asked.checkpoint or 'model_final_checkpoint'}.model (v1) nor plans.json and "
            f"fold_*/{asked.checkpoint or 'checkpoint_final'}.pth (v2). Is there a zip in it? Give "
            "that; another checkpoint is chosen by --checkpoint"
        )
        raise BundleUnfit(msg)

    return refuse


def _told(trained: Trained, source: Path, asked: ImportOptions) -> BundleStatement:
    """What the command line says, and what a person says on a terminal."""
    from limn.segment.importing.trained import (  # noqa: PLC0415
        UNSAID,
        USUAL_HU,
        BundleStatement,
    )

    named = re.sub(r"[^A-Za-z0-9]+", "-", f"{trained.name}-{trained.configuration}").strip("-")
    told = BundleStatement(
        name=asked.name or named.lower(),
        version=asked.version,
        organs=_organs(trained, asked),
        orientation=_orientation(asked),
        trained_on=asked.trained_on or UNSAID,
        not_for=asked.not_for or UNSAID,
        expected_hu=_range(asked.expected_hu) if asked.expected_hu else USUAL_HU,
        source=asked.source or f"{trained.made_by}, {trained.name}, from {_written(source.name)}",
        previous=asked.previous,
    )
    if source.is_file():
        told = replace(told, source=f"{told.source}, sha256 {_sha256(source)}")
    return told


def _written(name: str) -> str:
    """A file's name as text, whatever bytes it is made of."""
    return os.fsencode(name).decode("utf-8", "replace")


def _organs(trained: Trained, asked: ImportOptions) -> dict[int, Organ]:
    if asked.labels is not None:
        return parse_labels(asked.labels)
    # Names of TG-263 in dataset.json need no word more.
    exact = {organ.value.lower(): organ for organ in Organ}
    found = {k: exact[name.lower()] for k, name in trained.labels.items() if name.lower() in exact}
    if len(found) == len(trained.labels):
        return found
    said = ", ".join(f"{k}={name or '?'}" for k, name in sorted(trained.labels.items()))
    example = ",".join(f"{k}={organ}" for k, organ in zip(trained.labels, Organ, strict=False))
    if not sys.stdin.isatty():
        msg = (
            f"which label is which organ? The files say {said}. Give it, in this form and with "
            f'the order of the training: --labels "{example}"'
        )
        raise ConfigWrong(msg)
    return parse_labels(input(f"Labels of the files: {said}.\nOrgans (such as {example}): "))


def parse_labels(text: str) -> dict[int, Organ]:
    """``1=Heart,2=SpinalCord`` as labels and organs.

    Raises
    ------
    ConfigWrong
        If it is not of that form, or an organ is none of limn's.
    """
    organs = {}
    for part in text.split(","):
        label, _, name = part.partition("=")
        try:
            if int(label) in organs:
                msg = f"--labels: {int(label)} stands there twice"
                raise ConfigWrong(msg)
            organs[int(label)] = Organ(name.strip())
        except ValueError as error:
            msg = f"--labels: {part.strip()!r} is not of the form 1=ORGAN with {', '.join(Organ)}"
            raise ConfigWrong(msg) from error
    return organs


def _orientation(asked: ImportOptions) -> str:
    if asked.orientation is not None:
        return parse_orientation(asked.orientation)
    if asked.check is not None:
        return ""
    return _ask_orientation(None)


def _ask_orientation(best: str | None) -> str:
    if not sys.stdin.isatty():
        advice = (
            f"--check finds {best} the likeliest: --orientation {best}"
            if best
            else "give it, --orientation SPL for instance, or let a scan say it: --check DIR with "
            "a DICOM series of one animal"
        )
        msg = (
            "which way did the arrays of the training lie? Three letters say what the axes (z, y, "
            f"x) of its images grow towards, of S or I, P or A, L or R; {advice}"
        )
        raise ConfigWrong(msg)
    default = f" [{best}]" if best else ""
    return parse_orientation(
        input(f"Array axes (z, y, x) of the training grow towards, such as SPL{default}: ")
        or (best or "")
    )


def parse_orientation(text: str) -> str:
    """Three letters, one of each pair.

    Raises
    ------
    ConfigWrong
        If they are not.
    """
    letters = text.strip().upper()
    if len(letters) != 3 or any(len(set(letters) & set(p)) != 1 for p in ("SI", "PA", "LR")):
        msg = f"--orientation {text!r}: one of S or I, of P or A and of L or R expected, as in SPL"
        raise ConfigWrong(msg)
    return letters


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = math.nan, math.nan
    if not -math.inf < low < high < math.inf:
        msg = f"--expected-hu {text!r}: two numbers expected, the smaller first, as in -1200,1500"
        raise ConfigWrong(msg)
    return low, high


def _checked(
    trained: Trained, told: BundleStatement, folder: Path, check: Path, console: Console
) -> BundleStatement:
    """Try every way on a scan; the orientation as told if that is plausible, else the best."""
    from limn.bundles.try_axes import try_model  # noqa: PLC0415

    if trained.previous:
        msg = "--check: a cascade's second stage can't be tried without the first; leave it out"
        raise ConfigWrong(msg)
    trial = folder.with_name("trial")
    bundle = _seal(trained, replace(told, orientation=told.orientation or "SPL"), trial)
    tried = try_model(bundle, check, console)
    shutil.rmtree(trial)
    _show_ways(tried, told.orientation, console)
    plausible = [way for way in tried if way.plausible]
    if not plausible:
        msg = (
            f"--check {check}: no way to lay the axes gives four plausible organs. Are the "
            "labels named in the training's order, and is it a scan of one mouse's chest? Without "
            "--check the model is imported as you say"
        )
        raise BundleUnfit(msg)
    best = plausible[0].letters
    if not told.orientation:
        return replace(told, orientation=_ask_orientation(best))
    if told.orientation not in {way.letters for way in plausible}:
        msg = (
            f"--check {check}: with --orientation {told.orientation} the organs are not "
            f"plausible, with {best} they are. Give --orientation {best}, or leave --check out"
        )
        raise BundleUnfit(msg)
    return told


def _show_ways(tried: list[AxisTrial], told: str, console: Console) -> None:
    from limn.segment.importing.axis_search import table  # noqa: PLC0415

    short = {Organ.HEART: "heart", Organ.CORD: "cord", Organ.LUNG_R: "R", Organ.LUNG_L: "L lung"}
    shown = Table("axes", "", *(f"{short[organ]} mm3" for organ in Organ), "doubt", "")
    rows = table(tried, len(tried))
    kept = rows[:SHOWN] + [row for row in rows[SHOWN:] if row[0] == told]
    for row in kept:
        shown.add_row(*row, style="bold" if row[0] == told else None)
    console.print(shown)
    count = sum(way.plausible for way in tried)
    console.print(
        f"{count} of {len(tried)} ways are plausible, the best first. One patch around the chest, "
        "one fold (the best four: every fold). A network that was trained with mirroring draws as "
        "well in mirror images: then look at left and right on the picture of 'limn contour'."
    )


def _runs(bundle: Bundle) -> str | None:
    """Why this limn can't run a bundle; None if it can."""
    if bundle.previous:
        return (
            f"{bundle.label} is a cascade's second stage and takes the labels of "
            f"{bundle.previous}, which limn's engine does not feed in; use 3d_fullres"
        )
    from limn.segment.engine.ensemble import Ensemble  # noqa: PLC0415

    try:
        Ensemble.load(bundle, "cpu")
    except LimnError as error:
        return str(error)
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
