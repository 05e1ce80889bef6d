"""Makes a bundle of a training of nnU-Net, v1 or v2: read, complete, check and seal it."""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from limn.bundles.chest_networks import add_chest_networks
from limn.domain.errors import BundleUnfit, ConfigWrong, LimnError
from limn.domain.scan import TG263_ROLES, Organ, Role, named_organ
from limn.domain.shipped import MANIFEST, models_dir
from limn.phantom.chest_tiles import chest_tiles
from limn.segment.bundle import shelf
from limn.segment.bundle.bundle import Bundle, open_bundle, sha256_of
from limn.segment.engine.plans import check_numbers, read_plan

if TYPE_CHECKING:
    from limn.segment.importing.axis_search import AxisTrial
    from limn.segment.importing.trained import BundleStatement, Trained

# Files that are unpacked of an archive: a result folder also holds predictions and pictures.
WANTED = (
    "plans.pkl", "plans.json", "dataset.json", "postprocessing.json", "*.model", "*.model.pkl",
    "fold_*/*.pth", MANIFEST,
)  # fmt: skip
CHEST_NETWORKS = (
    "onlooker and localiser of the embedded bundle were added: they find how an animal lies and "
    'where its chest is. With profile = "fast" below [model] the folds see the chest alone'
)
# Lines of the table of trials.
SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """The options of the command line; None for an option that is not given."""

    name: str | None = None
    version: str = "1"
    labels: str | None = None
    roles: str | None = None
    orientation: str | None = None
    configuration: str | None = None
    checkpoint: str | None = None
    trained_on: str | None = None
    not_for: str | None = None
    expected_hu: str | None = None
    source: str = ""
    previous: str = ""
    check: Path | None = None


def import_model(given: Path | None, source: Path, options: ImportOptions) -> None:
    """Import a training of nnU-Net, v1 or v2, folder or zip, and install the bundle."""
    console = Console(emoji=False, highlight=False)
    target_folder = models_dir(given)
    with shelf.incoming(target_folder) as work:
        sealed = import_to(source, work / "bundle", options, console, target_folder)
        bundle = open_bundle(sealed)
        check_numbers(bundle)
        target = shelf.place(target_folder, bundle.label)
        shelf.put(sealed, target)
    print_installed(console, target)
    bundle = open_bundle(target)
    if (problem := _why_not_runnable(bundle)) is not None:
        console.print(f"[yellow]can't run here:[/] {escape(problem)}")
        return
    try_int8(bundle, console)


def try_int8(bundle: Bundle, console: Console) -> None:
    """Decide whether an installed bundle runs in int8 on this processor, and print the verdict."""
    from limn.segment.engine.int8 import BESIDE_BUNDLES, with_int8  # noqa: PLC0415

    with_int8(
        bundle,
        lambda line: console.print(line, soft_wrap=True, markup=False),
        [bundle.folder.parent / BESIDE_BUNDLES],
    )


def print_installed(console: Console, target: Path) -> None:
    """Print where a bundle was installed, and the line of the config that names it."""
    console.print(f"installed {target}", soft_wrap=True, markup=False)
    console.print(
        f'in the site\'s config, below [model]: bundle = "{target}"', soft_wrap=True, markup=False
    )


def import_to(
    source: Path,
    folder: Path,
    options: ImportOptions,
    console: Console,
    installed: Path | None = None,
) -> Path:
    """Make a bundle of a training of nnU-Net in a new folder.

    On a terminal it asks the user for what the options leave open.

    Parameters
    ----------
    installed : the folder of installed bundles; a name that exists there is refused before
        anything is tried or copied
    """
    if options.check is not None and not options.check.is_dir():
        msg = f"--check {options.check} is no folder"
        raise ConfigWrong(msg)
    with shelf.opened(source, WANTED) as unpacked:
        trained = _read(unpacked, source, options)
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
        statement = _describe(trained, source, options)
        if installed is not None:
            _refuse_existing(shelf.place(installed, f"{statement.name}-{statement.version}"))
        if options.check is not None:
            statement = _check_orientation(trained, statement, folder, options.check, console)
        if not statement.orientation:
            statement = replace(statement, orientation=_ask_orientation(None))
        _seal(trained, statement, folder)
    _add_sample(folder)
    if add_chest_networks(folder).localiser is not None:
        console.print(CHEST_NETWORKS, soft_wrap=True, markup=False)
    return folder


def _add_sample(folder: Path) -> None:
    """Add tiles of phantoms, on which int8 is compared with fp32, if the engine could use them."""
    from limn.segment.engine.openvino_net import can_build  # noqa: PLC0415
    from limn.segment.importing.sampled import sampled  # noqa: PLC0415

    bundle = open_bundle(folder)
    try:
        plan = read_plan(bundle)
    except BundleUnfit:
        # A cascade's second stage, or a preprocessing that the engine lacks: it does not run.
        return
    if can_build(plan.architecture) and not plan.flat:
        sampled(folder, chest_tiles)


def _refuse_existing(target: Path) -> None:
    if target.exists():
        msg = f"{target} exists; nothing was changed. Give another --name or --version"
        raise BundleUnfit(msg)


def _seal(trained: Trained, statement: BundleStatement, folder: Path) -> Bundle:
    from limn.segment.importing.trained import seal  # noqa: PLC0415

    try:
        return seal(trained, statement, folder)
    except OSError as error:
        msg = f"{folder}: {error.strerror or error}"
        raise BundleUnfit(msg) from error


def _read(folder: Path, source: Path, options: ImportOptions) -> Trained:
    from limn.segment.importing import import_v1, import_v2  # noqa: PLC0415

    names = {"v1": options.checkpoint or import_v1.CHECKPOINT}
    names["v2"] = options.checkpoint or import_v2.CHECKPOINT
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
    if not readers and (folder / MANIFEST).is_file():
        msg = f"{source} is a bundle already: limn models install {source}"
        raise BundleUnfit(msg)
    if options.configuration and len(readers) > 1:
        # v1 names a folder after the configuration, v2 ends a folder's name with it.
        ends = (options.configuration, f"__{options.configuration}")
        readers = [own for own in readers if any(part.endswith(ends) for part in own[0].parts)]
    if not readers:
        raise BundleUnfit(_no_training_in(source, options))
    if len(readers) > 1:
        listed = "; ".join(str(path.relative_to(folder)) for path, _ in readers)
        msg = f"{source} holds {len(readers)} models; choose one by --configuration: {listed}"
        raise BundleUnfit(msg)
    trained = readers[0][1]()
    if options.configuration and trained.configuration != options.configuration:
        msg = f"{source} is {trained.configuration}, --configuration says {options.configuration}"
        raise BundleUnfit(msg)
    return trained


def _no_training_in(source: Path, options: ImportOptions) -> str:
    where = f" of configuration {options.configuration}" if options.configuration else ""
    return (
        f"{source} holds no training of nnU-Net{where}: neither "
        f"fold_*/{options.checkpoint or 'model_final_checkpoint'}.model (v1) nor plans.json and "
        f"fold_*/{options.checkpoint or 'checkpoint_final'}.pth (v2). If it holds a zip, give the "
        "zip; --checkpoint chooses another checkpoint"
    )


def _describe(trained: Trained, source: Path, options: ImportOptions) -> BundleStatement:
    """The statement of the command line, completed by the user on a terminal."""
    from limn.segment.importing.trained import (  # noqa: PLC0415
        NOT_STATED,
        USUAL_HU,
        BundleStatement,
    )

    organs = _organs(trained, options)
    named = re.sub(r"[^A-Za-z0-9]+", "-", f"{trained.name}-{trained.configuration}").strip("-")
    statement = BundleStatement(
        name=options.name or named.lower(),
        version=options.version,
        organs=organs,
        roles=TG263_ROLES if options.roles is None else parse_roles(options.roles, organs.values()),
        orientation=_orientation(options),
        trained_on=options.trained_on or NOT_STATED,
        not_for=options.not_for or NOT_STATED,
        expected_hu=_range(options.expected_hu) if options.expected_hu else USUAL_HU,
        source=options.source
        or f"{trained.made_by}, {trained.name}, from {_printable(source.name)}",
        previous=options.previous,
    )
    if source.is_file():
        statement = replace(statement, source=f"{statement.source}, sha256 {sha256_of(source)}")
    return statement


def _printable(name: str) -> str:
    """A file's name as text; bytes that are no UTF-8 are replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


def _organs(trained: Trained, options: ImportOptions) -> dict[int, Organ]:
    if options.labels is not None:
        return _checked(parse_labels(options.labels), options)
    listed = ", ".join(f"{k}={name or '?'}" for k, name in sorted(trained.labels.items()))
    example = ",".join(
        f"{k}={organ}" for k, organ in zip(trained.labels, TG263_ROLES.values(), strict=False)
    )
    doubtful = [name for name in trained.labels.values() if not name or _may_have_role(name)]
    if not doubtful or options.roles is not None:
        return {k: _organ(name) for k, name in trained.labels.items()}
    if not sys.stdin.isatty():
        msg = (
            f"which label is which organ? The files say {listed}. limn checks left and right by "
            "heart, cord and lungs, and knows them by these names: "
            f"{', '.join(TG263_ROLES.values())}. "
            f'Give all organs in the order of the training, in this form: --labels "{example}"; or '
            'keep the names and say which is which: --roles "heart=NAME,cord=NAME,lung_r=NAME,'
            'lung_l=NAME", as far as there are such organs'
        )
        raise ConfigWrong(msg)
    told = input(f"Labels of the files: {listed}.\nOrgans (such as {example}): ")
    return _checked(parse_labels(told), options)


def _checked(organs: dict[int, Organ], options: ImportOptions) -> dict[int, Organ]:
    """The organs that a person named; refused if a slip would leave left and right unchecked."""
    doubtful = [organ for organ in organs.values() if _may_have_role(organ)]
    if doubtful and options.roles is None:
        msg = (
            f"--labels names {', '.join(doubtful)}; limn checks left and right by organs of these "
            f"names: {', '.join(TG263_ROLES.values())}. Use them, or say which organ is which: "
            '--roles "heart=NAME,...", or --roles "" for none'
        )
        raise ConfigWrong(msg)
    return organs


def _organ(name: str) -> Organ:
    """The organ of a training's label; TG-263's names may have other capitals there."""
    return _tg263(name) or named_organ("_".join(name.split()))


def _tg263(name: str) -> Organ | None:
    exact = {organ.lower(): organ for organ in TG263_ROLES.values()}
    return exact.get(name.lower())


def _may_have_role(name: str) -> bool:
    """Whether a name that is not TG-263's sounds like an organ by which sides are checked."""
    sounds = any(part in name.lower() for part in ("heart", "cord", "spin", "lung"))
    return sounds and _organ(name) not in TG263_ROLES.values()


def parse_roles(text: str, organs: Collection[Organ]) -> dict[Role, Organ]:
    """Parse ``heart=Heart,cord=Cord``; a text without words gives no role.

    Raises
    ------
    ConfigWrong
        If a role is unknown, or no label is that organ.
    """
    roles: dict[Role, Organ] = {}
    for part in filter(str.strip, text.split(",")):
        role, _, name = (each.strip() for each in part.partition("="))
        if role not in list(Role) or Role(role) in roles:
            wanted = f"one each of {', '.join(Role)} expected, as in heart=NAME"
            msg = f"--roles: {part.strip()!r}: {wanted}"
            raise ConfigWrong(msg)
        if name not in organs:
            msg = f"--roles: no label is {name!r}; the organs are {', '.join(organs)}"
            raise ConfigWrong(msg)
        roles[Role(role)] = Organ(name)
    return roles


def parse_labels(text: str) -> dict[int, Organ]:
    """Parse ``1=Heart,2=Liver``.

    Raises
    ------
    ConfigWrong
        If the text has another form.
    """
    organs = {}
    for part in text.split(","):
        label, _, name = part.partition("=")
        try:
            if int(label) in organs:
                msg = f"--labels names {int(label)} twice"
                raise ConfigWrong(msg)
            organs[int(label)] = _tg263(name.strip()) or named_organ(name.strip())
        except ValueError as error:
            msg = f"--labels: {part.strip()!r} is not of the form 1=ORGAN ({error})"
            raise ConfigWrong(msg) from error
    return organs


def _orientation(options: ImportOptions) -> str:
    if options.orientation is not None:
        return parse_orientation(options.orientation)
    if options.check is not None:
        return ""
    return _ask_orientation(None)


def _ask_orientation(best: str | None) -> str:
    if not sys.stdin.isatty():
        advice = (
            f"by --check {best} is the likeliest: --orientation {best}"
            if best
            else "give them, such as --orientation SPL, or find them by a scan: --check DIR with a "
            "DICOM series of one animal"
        )
        msg = (
            "how were the arrays of the training oriented? Three letters say what the axes (z, y, "
            f"x) of its images grow towards: S or I, P or A, L or R; {advice}"
        )
        raise ConfigWrong(msg)
    default = f" [{best}]" if best else ""
    return parse_orientation(
        input(f"Array axes (z, y, x) of the training grow towards, such as SPL{default}: ")
        or (best or "")
    )


def parse_orientation(text: str) -> str:
    """Parse three letters, one of each pair S or I, P or A, L or R.

    Raises
    ------
    ConfigWrong
        If the text is anything else.
    """
    letters = text.strip().upper()
    if len(letters) != 3 or any(len(set(letters) & set(p)) != 1 for p in ("SI", "PA", "LR")):
        msg = f"--orientation {text!r}: one each of S or I, P or A, L or R expected, as in SPL"
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


def _check_orientation(
    trained: Trained, statement: BundleStatement, folder: Path, check: Path, console: Console
) -> BundleStatement:
    """Try every orientation on a scan; keep the given one if it is plausible, or ask."""
    from limn.bundles.try_axes import try_model  # noqa: PLC0415

    if not set(statement.roles.values()) & set(statement.organs.values()):
        msg = (
            "--check: limn knows how heart, cord and lungs lie, and no label is one of these; give "
            "--orientation, and leave --check out"
        )
        raise ConfigWrong(msg)
    if trained.previous:
        msg = "--check: a cascade's second stage can't be tried without the first; leave it out"
        raise ConfigWrong(msg)
    trial = folder.with_name("trial")
    bundle = _seal(trained, replace(statement, orientation=statement.orientation or "SPL"), trial)
    trials = try_model(bundle, check, console)
    shutil.rmtree(trial)
    _show_trials(trials, statement.orientation, console)
    plausible = [trial for trial in trials if trial.plausible]
    if not plausible:
        msg = (
            f"--check {check}: no order and flip of the axes gives plausible organs. Are "
            "the labels in the training's order, and does the scan show one mouse's chest? Without "
            "--check the model is imported as the options say"
        )
        raise BundleUnfit(msg)
    best = plausible[0].letters
    if not statement.orientation:
        return replace(statement, orientation=_ask_orientation(best))
    if statement.orientation not in {trial.letters for trial in plausible}:
        msg = (
            f"--check {check}: with --orientation {statement.orientation} the organs are not "
            f"plausible, with {best} they are. Give --orientation {best}, or leave --check out"
        )
        raise BundleUnfit(msg)
    return statement


def _show_trials(trials: list[AxisTrial], chosen: str, console: Console) -> None:
    from limn.segment.importing.axis_search import table  # noqa: PLC0415

    shown = Table("axes", "", *(f"{organ} mm3" for organ in trials[0].volumes_mm3), "doubt", "")
    rows = table(trials)
    kept = rows[:SHOWN] + [row for row in rows[SHOWN:] if row[0] == chosen]
    for row in kept:
        shown.add_row(*row, style="bold" if row[0] == chosen else None)
    console.print(shown)
    count = sum(trial.plausible for trial in trials)
    console.print(
        f"{count} of {len(trials)} ways are plausible, the best first. One patch around the chest, "
        "one fold (the best four: every fold). A network that was trained with mirroring draws as "
        "well in mirror images: then check left and right on the picture of 'limn contour'."
    )


def _why_not_runnable(bundle: Bundle) -> str | None:
    """Why this version of limn can't run a bundle; None if it can."""
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
