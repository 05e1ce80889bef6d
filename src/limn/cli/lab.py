"""The commands of ``limn lab``."""

from __future__ import annotations

import argparse
from pathlib import Path

from limn.cli import arguments
from limn.cli.exits import Commands


def add_commands(commands: Commands) -> None:
    """The commands of ``limn lab``."""
    lab = commands.add_parser("lab", help="train and measure")
    studies = lab.add_subparsers(metavar="STUDY", required=True)
    _add_training(studies)
    _add_adapting(studies)
    _add_judging(studies)
    _add_data(studies)
    _add_studies(studies)


def _add_training(studies: Commands) -> None:
    train = studies.add_parser("train-phantom", help="train the embedded bundle on phantoms")
    train.add_argument("out", type=Path)
    train.add_argument(
        "--from",
        dest="start",
        type=Path,
        metavar="BUNDLE",
        help="continue this bundle's folds, on phantoms that they have not seen",
    )
    train.add_argument(
        "--organs",
        metavar="ORGAN,...",
        help="a small quick bundle of these, such as Heart,Liver,Kidney_R,Kidney_L",
    )
    train.set_defaults(run=_lab_train_phantom)
    sample = studies.add_parser(
        "add-sample",
        help="add tiles of phantoms to a bundle, on which int8 is tried; seals it anew",
    )
    sample.add_argument("bundle", type=arguments.bundle)
    sample.set_defaults(run=_lab_add_sample)
    figures = studies.add_parser("figures", help="the pictures of docs/phantom.md")
    figures.add_argument("out", type=Path)
    figures.add_argument("--real", type=Path, help="organ labels of a real mouse, NIfTI")
    figures.set_defaults(run=_lab_figures)
    tried = studies.add_parser("try", help="score a bundle on phantoms outside its training")
    tried.add_argument("bundle", type=arguments.bundle)
    tried.add_argument("out", type=Path)
    tried.add_argument(
        "--set",
        choices=["cohort", "wide", "stress"],
        default="cohort",
        help="the paper's two test sets, the same by many scanners, or odd conditions",
    )
    tried.add_argument(
        "--profile", choices=["paper", "stock", "fast"], help="default: the bundle's own"
    )
    tried.add_argument(
        "--note", action="store_true", help="write the means into the bundle's manifest"
    )
    tried.set_defaults(run=_lab_try)


def _add_adapting(studies: Commands) -> None:
    adapted = studies.add_parser(
        "adapt", help="go on from a bundle with 2 to 20 of your animals: a new bundle and a page"
    )
    adapted.add_argument("bundle", type=arguments.bundle)
    adapted.add_argument("dataset", type=Path, help="a data set of limn lab import")
    adapted.add_argument(
        "out", type=Path, help="keeps all work, to resume; OUT/bundle, OUT/adapt.html"
    )
    adapted.add_argument(
        "--organs", metavar="ORGAN,...", help="learn these alone (default: all that are contoured)"
    )
    adapted.add_argument("--name", help="of the new bundle (default: BUNDLE-DATASET)")
    adapted.add_argument(
        "--hours", type=float, default=8.0, help="the time that it may take (default 8)"
    )
    adapted.add_argument("--steps", type=int, help="of each fold, instead of --hours")
    adapted.add_argument("--phantoms", type=int, help="that keep what was known (default 40)")
    adapted.add_argument("--scored", type=int, help="phantoms of the page's table (default 8)")
    adapted.add_argument("--workers", type=int, help="folds at a time (default: one for each core)")
    adapted.set_defaults(run=_lab_adapt)


def _add_judging(studies: Commands) -> None:
    taught = studies.add_parser(
        "judge", help="teach a bundle to predict how good its contours are; seals it anew"
    )
    taught.add_argument("bundle", type=arguments.bundle)
    taught.add_argument(
        "dataset",
        type=Path,
        nargs="?",
        help="a data set of limn lab import; default: phantoms with faults",
    )
    taught.add_argument("-o", "--out", type=Path, required=True, help="keeps all rows, to resume")
    taught.set_defaults(run=_lab_judge)
    tried = studies.add_parser(
        "trust", help="try a bundle's judge on phantoms with faults: table, plot, each miss"
    )
    tried.add_argument("bundle", type=arguments.bundle)
    tried.add_argument("-o", "--out", type=Path, required=True, help="keeps all rows, to resume")
    tried.set_defaults(run=_lab_trust)
    for each, scans in ((taught, 440), (tried, 800)):
        each.add_argument("--scans", type=int, default=scans, help=f"phantoms (default {scans})")
        each.add_argument("--workers", type=int, help="processes (default: one for each core)")


def _add_data(studies: Commands) -> None:
    imported = studies.add_parser(
        "import", help="import scans and contours of any maker as one data set, each checked"
    )
    imported.add_argument(
        "source", type=Path, help="a folder; one of limn phantom cohort needs no --layout"
    )
    imported.add_argument(
        "--returned",
        action="store_true",
        help="SOURCE is a node's config: its scans with the structure sets that came back",
    )
    imported.add_argument("out", type=Path)
    imported.add_argument("--layout", type=Path, metavar="TOML", help="the files of SOURCE")
    imported.add_argument(
        "--split", type=Path, metavar="TOML", help="which animals train and test (default: random)"
    )
    imported.add_argument(
        "--organs",
        type=Path,
        metavar="BUNDLE",
        help="the organs and labels of this bundle, data set or TOML (default: the layout's)",
    )
    imported.set_defaults(run=_lab_import)
    exported = studies.add_parser(
        "export", help="CT series and structure sets without identities, for others to use"
    )
    exported.add_argument("source", type=Path, help="a folder of DICOM files")
    exported.add_argument(
        "--returned",
        action="store_true",
        help="SOURCE is a node's config: its scans with the structure sets that came back",
    )
    exported.add_argument("out", type=Path, help="a new folder")
    exported.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="keeps which animal is which, at the site, for later exports (default: forgotten)",
    )
    exported.add_argument(
        "--keep-rois",
        metavar="NAME,...",
        default="",
        help="names of ROIs that name no person; others than organs get a number",
    )
    exported.set_defaults(run=_lab_export)


def _add_studies(studies: Commands) -> None:
    scored = studies.add_parser(
        "score", help="a bundle on the test animals of a data set, beside the paper's values"
    )
    scored.add_argument("bundle", type=arguments.bundle)
    scored.add_argument("dataset", type=Path, help="a data set of limn lab import")
    scored.add_argument("-o", "--out", type=Path, required=True, help="keeps all labels, to resume")
    scored.add_argument(
        "--profile", choices=["paper", "stock", "fast"], help="default: the bundle's own"
    )
    scored.set_defaults(run=_lab_score)
    tables = studies.add_parser("tables", help="Tables 1 to 4 and box plots from scores")
    tables.add_argument("scores", type=Path, metavar="SCORES.csv")
    tables.add_argument("out", type=Path)
    tables.set_defaults(run=_lab_tables)
    study = studies.add_parser(
        "reproduce", help="the paper's study, from scans to tables; a killed run resumes"
    )
    study.add_argument(
        "config", type=Path, metavar="CONFIG.toml", help="such as config/phantom-study.toml"
    )
    study.add_argument("-o", "--out", type=Path, required=True, help="keeps all results, to resume")
    study.add_argument(
        "--data", type=Path, metavar="FOLDER", help="the scans, instead of data.source of CONFIG"
    )
    study.set_defaults(run=_lab_reproduce)


def _lab_train_phantom(parsed: argparse.Namespace) -> None:
    from limn.domain.shipped import EMBEDDED_BUNDLE
    from limn.lab.train.folds import train_phantom_bundle
    from limn.lab.train.localiser import LocaliserRecipe
    from limn.lab.train.onlooker import OrientRecipe
    from limn.lab.train.recipe import Recipe, going_on, quick

    if parsed.organs and parsed.start:
        from limn.domain.errors import ConfigWrong

        raise ConfigWrong("--organs and --from: a bundle is continued with its own organs")
    recipe = going_on(parsed.start) if parsed.start else Recipe()
    if parsed.organs:
        recipe = quick(tuple(parsed.organs.split(",")), EMBEDDED_BUNDLE)
    sealed = train_phantom_bundle(parsed.out, recipe, OrientRecipe(), LocaliserRecipe(), print)
    print(f"bundle sealed in {sealed}")


def _lab_add_sample(parsed: argparse.Namespace) -> None:
    from limn.phantom.chest_tiles import chest_tiles
    from limn.segment.importing.sampled import sampled

    print(f"{sampled(parsed.bundle, chest_tiles).label} sealed with a sample in {parsed.bundle}")


def _lab_figures(parsed: argparse.Namespace) -> None:
    from limn.lab.report.figures import draw_sheets

    for path in draw_sheets(parsed.out, parsed.real):
        print(path)


def _lab_try(parsed: argparse.Namespace) -> None:
    from limn.lab.train.testsets import try_bundle

    try_bundle(parsed.bundle, parsed.set, parsed.profile, parsed.out, print, note=parsed.note)


def _lab_adapt(parsed: argparse.Namespace) -> None:
    from limn.domain.scan import Organ
    from limn.lab.adapt.adapt import adapt
    from limn.lab.adapt.budget import AdaptOptions

    organs = parsed.organs.split(",") if parsed.organs else None
    options = AdaptOptions(
        organs=None if organs is None else tuple(Organ(each) for each in organs),
        name=parsed.name,
        hours=parsed.hours,
        steps=parsed.steps,
        phantoms=parsed.phantoms,
        scored=parsed.scored,
        workers=parsed.workers,
    )
    adapt(parsed.bundle, parsed.dataset, parsed.out, options, _print_now)


def _lab_judge(parsed: argparse.Namespace) -> None:
    from limn.lab.trust.judge_study import teach_bundle

    teach_bundle(
        parsed.bundle, parsed.dataset, parsed.out, parsed.scans, parsed.workers, _print_now
    )


def _lab_trust(parsed: argparse.Namespace) -> None:
    from limn.lab.trust.judge_study import try_judge

    try_judge(parsed.bundle, parsed.out, parsed.scans, parsed.workers, _print_now)


def _print_now(line: str) -> None:
    print(line, flush=True)


def _lab_import(parsed: argparse.Namespace) -> None:
    from limn.lab.data.dataset import import_folder

    if parsed.returned:
        from limn.domain.errors import ConfigWrong
        from limn.lab.data.returned import import_returned
        from limn.node.operate.history.edits import corrected_scans

        if parsed.layout:
            raise ConfigWrong("--returned and --layout: a node's scans need no layout")
        scans = corrected_scans(parsed.source)
        import_returned(scans, parsed.out, parsed.split, print, parsed.organs)
        return
    import_folder(parsed.source, parsed.out, parsed.layout, parsed.split, print, parsed.organs)


def _lab_score(parsed: argparse.Namespace) -> None:
    from limn.lab.study.score_dataset import score_dataset

    page = score_dataset(parsed.bundle, parsed.dataset, parsed.out, parsed.profile, _print_now)
    print(f"done: {page}")


def _lab_export(parsed: argparse.Namespace) -> None:
    from limn.domain.errors import ConfigWrong
    from limn.lab.data.dataset import MANIFEST
    from limn.lab.export.export import export_folder

    keep_rois = {name.strip() for name in parsed.keep_rois.split(",") if name.strip()}
    if parsed.returned:
        from limn.lab.export.returned import export_returned
        from limn.node.config import load_config
        from limn.node.operate.history.edits import corrected_scans

        scans, data_dir = corrected_scans(parsed.source), load_config(parsed.source).data_dir
        export_returned(scans, data_dir, parsed.out, parsed.key, keep_rois, _print_now)
        return
    if (parsed.source / MANIFEST).is_file():
        msg = (
            f"{parsed.source} is a data set of limn lab import, which holds no DICOM: give the "
            "folder that it was imported from; of scans that came back: limn lab export --returned "
            "CONFIG OUT"
        )
        raise ConfigWrong(msg)
    export_folder(parsed.source, parsed.out, parsed.key, keep_rois, _print_now)


def _lab_tables(parsed: argparse.Namespace) -> None:
    from limn.lab.report.tables import write_tables

    write_tables(parsed.scores, parsed.out, print)


def _lab_reproduce(parsed: argparse.Namespace) -> None:
    from limn.lab.study.reproduce import reproduce

    reproduce(parsed.config, parsed.out, parsed.data, print)
