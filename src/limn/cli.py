"""The command line: parse, call one function, exit.

Nothing heavy is imported at the top, so that ``limn --help`` answers at once.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from limn import __version__
from limn.domain.errors import LimnError

if TYPE_CHECKING:
    from limn.node.models import Asked

EXIT_WRONG = 1
EXIT_USAGE = 2
COHORT = "phantom cohort"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; an error meant for people is printed, not thrown."""
    parsed = _parser().parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
    try:
        return int(parsed.run(parsed) or 0)
    except LimnError as error:
        print(f"limn: {error}", file=sys.stderr)
        return EXIT_WRONG
    except sqlite3.DatabaseError as error:
        print(
            f"limn: the journal can't be read ({error}); `limn check` says more, and "
            "`limn serve` sets a damaged one aside when it starts",
            file=sys.stderr,
        )
        return EXIT_WRONG
    except KeyboardInterrupt:
        return 130


def _joined(arguments: Sequence[str]) -> list[str]:
    """``phantom cohort`` as the one command that it is.

    argparse can't tell a folder from a command in the same place; a folder that bears the name is
    ``./cohort`` (D-030).
    """
    if list(arguments[:2]) == COHORT.split():
        return [COHORT, *arguments[2:]]
    return list(arguments)


def _serve(parsed: argparse.Namespace) -> None:
    from limn.node import service

    if parsed.child:
        run = {"receiver": service.run_receiver, "engine": service.run_engine}
        run[parsed.only](parsed.config)
    else:
        service.Supervisor(parsed.config, parsed.only).run()


def _certs(parsed: argparse.Namespace) -> None:
    from limn.node import certs

    hosts = [certs.Host.parse(text) for text in parsed.host]
    peers = [certs.Host.parse(text) for text in parsed.peer]
    if not hosts and not peers:
        hosts = [certs.Host.this()]
    folders = certs.make(parsed.out, hosts, peers, certs.now_utc())
    print(certs.explain(parsed.out, folders), end="")


def _check(parsed: argparse.Namespace) -> int:
    from limn.node.check import check

    return 0 if check(parsed.config, parsed.only) else EXIT_WRONG


def _contour(parsed: argparse.Namespace) -> int:
    from limn.node.cohort import contour_folders

    done = contour_folders(parsed.folder, parsed.out, parsed.bundle, parsed.config)
    return 0 if done else EXIT_WRONG


def _send(parsed: argparse.Namespace) -> None:
    from limn.node.send import send_folder

    send_folder(parsed.folder, parsed.to, called=parsed.aec, calling=parsed.aet)


def _log(parsed: argparse.Namespace) -> None:
    from limn.node.logview import show

    show(parsed.config, as_csv=parsed.csv, since=parsed.since, animal=parsed.animal)


def _release(parsed: argparse.Namespace) -> None:
    from limn.node.release import discard, release

    if parsed.discard != (parsed.why is not None) or (parsed.discard and not parsed.scan):
        parsed.usage("--discard wants SCAN and --why TEXT, and --why goes with --discard alone")
    if parsed.discard:
        discard(parsed.config, parsed.scan, parsed.why)
    else:
        release(parsed.config, parsed.scan)


def _queue(parsed: argparse.Namespace) -> None:
    from limn.node.queue import show

    show(parsed.config, as_json=parsed.json)


def _retry(parsed: argparse.Namespace) -> None:
    from limn.node.again import retry

    retry(parsed.config, parsed.scan)


def _resend(parsed: argparse.Namespace) -> None:
    from limn.node.again import resend

    resend(parsed.config, parsed.scan, parsed.to)


def _asked(parsed: argparse.Namespace) -> Asked:
    from limn.node.models import Asked

    return Asked(
        name=parsed.name,
        version=parsed.version,
        labels=parsed.labels,
        orientation=parsed.orientation,
        configuration=parsed.configuration,
        checkpoint=parsed.checkpoint,
        trained_on=parsed.trained_on,
        not_for=parsed.not_for,
        expected_hu=parsed.expected_hu,
        source=parsed.source,
        previous=parsed.previous,
        check=parsed.check,
    )


def _models_list(parsed: argparse.Namespace) -> None:
    from limn.node.models import show_list

    show_list(parsed.models_dir)


def _models_verify(parsed: argparse.Namespace) -> int:
    from limn.node.models import verify

    return 0 if verify(parsed.models_dir, parsed.bundle) else EXIT_WRONG


def _models_install(parsed: argparse.Namespace) -> None:
    from limn.node.models import install

    install(parsed.models_dir, parsed.path)


def _models_pack(parsed: argparse.Namespace) -> None:
    from limn.node.models import pack

    pack(parsed.path, parsed.out, _asked(parsed))


def _models_import(parsed: argparse.Namespace) -> None:
    from limn.node.models import import_model

    import_model(parsed.models_dir, parsed.path, _asked(parsed))


def _phantom(parsed: argparse.Namespace) -> None:
    from limn.lab.synthesize import show_phantom

    show_phantom(
        parsed.out,
        parsed.seed,
        spacing_mm=parsed.spacing,
        size_mm=(parsed.size[0], parsed.size[1], parsed.size[2]),
        neighbour=parsed.neighbour,
        contrast=parsed.contrast,
        position=parsed.position,
        stack=parsed.stack,
        turned=parsed.turned,
        mirrored=parsed.mirrored,
        quirks=parsed.quirk,
    )


def _cohort(parsed: argparse.Namespace) -> None:
    from limn.lab.cohort import show_cohort
    from limn.phantom.cohort import SIZE_ZYX_MM, Cohort

    z, y, x = parsed.size or SIZE_ZYX_MM
    planned = Cohort(
        seed=parsed.seed,
        animals=parsed.animals,
        time_points=parsed.time_points,
        contrast_animals=parsed.contrast_animals,
        contrast_scans=parsed.contrast_scans,
        spacing_mm=parsed.spacing,
        size_zyx_mm=(z, y, x),
        wide=parsed.wide,
    )
    show_cohort(parsed.out, planned, parsed.workers)


class _ListQuirks(argparse.Action):
    """Print the table and exit, whatever else is asked; the imports wait until then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from limn.lab.synthesize import quirk_table

        print(quirk_table())
        parser.exit()


def _rois(parsed: argparse.Namespace) -> None:
    from limn.lab.rois import show_rois

    show_rois(parsed.structure_set, parsed.series, parsed.out)


def _lab_train_phantom(parsed: argparse.Namespace) -> None:
    from limn.lab.recipe import Recipe, going_on
    from limn.lab.train import train_phantom_bundle
    from limn.lab.train_orient import OrientRecipe

    recipe = going_on(parsed.start) if parsed.start else Recipe()
    print(f"bundle sealed in {train_phantom_bundle(parsed.out, recipe, OrientRecipe(), print)}")


def _lab_figures(parsed: argparse.Namespace) -> None:
    from limn.lab.figures import draw_sheets

    for path in draw_sheets(parsed.out, parsed.real):
        print(path)


def _lab_try(parsed: argparse.Namespace) -> None:
    from limn.lab.testsets import try_bundle

    try_bundle(parsed.bundle, parsed.set, parsed.profile, parsed.out, print, note=parsed.note)


def _lab_import(parsed: argparse.Namespace) -> None:
    from limn.lab.dataset import import_folder

    import_folder(parsed.source, parsed.out, parsed.layout, parsed.split, print)


def _lab_tables(parsed: argparse.Namespace) -> None:
    from limn.lab.tables import write_tables

    write_tables(parsed.scores, parsed.out, print)


def _lab_reproduce(parsed: argparse.Namespace) -> None:
    from limn.lab.study import reproduce

    reproduce(parsed.config, parsed.out, parsed.data, print)


def _demo(parsed: argparse.Namespace) -> int:
    from limn.demo import demo

    return 0 if demo(parsed.out, parsed.seed) else EXIT_WRONG


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="limn", description="A DICOM node that contours a mouse while it sleeps."
    )
    parser.add_argument("--version", action="version", version=f"limn {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", help="run the node until Ctrl-C")
    serve.add_argument("--config", type=Path, required=True)
    serve.add_argument(
        "--only",
        choices=["receiver", "scheduler", "worker", "engine"],
        metavar="PART",
        help="this host's part of a node on several: receiver (with dispatch and delivery), "
        "scheduler or worker (deploy/README.md)",
    )
    # How the supervisor starts the processes that it watches over.
    serve.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    serve.set_defaults(run=_serve)

    check = commands.add_parser("check", help="try config, bundle, model and peers")
    check.add_argument("--config", type=Path, required=True)
    check.add_argument(
        "--only",
        choices=["receiver", "scheduler", "worker"],
        metavar="PART",
        help="what limn serve --only PART needs on this host",
    )
    check.set_defaults(run=_check)

    contour = commands.add_parser(
        "contour", help="contour folders of DICOM into a folder; nothing is sent"
    )
    contour.add_argument(
        "folder", type=Path, nargs="+", metavar="DIR", help="one series, or any number"
    )
    contour.add_argument("-o", "--out", type=Path, required=True)
    chosen = contour.add_mutually_exclusive_group()
    chosen.add_argument("--bundle", type=Path, help="default: the embedded demonstration bundle")
    chosen.add_argument("--config", type=Path, help="a site's own; its node contours, if it runs")
    contour.set_defaults(run=_contour)

    certs = commands.add_parser(
        "certs", help="certificates for the hosts of a node and for its DICOM peers"
    )
    certs.add_argument("out", type=Path, metavar="OUT", help="keeps both authorities; add to it")
    certs.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME[,ADDRESS]",
        help="a host that runs limn: one certificate for the engine, one for DICOM (default: "
        "this machine)",
    )
    certs.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME[,ADDRESS]",
        help="a scanner or planning system: one for DICOM, good for nothing else",
    )
    certs.set_defaults(run=_certs)

    send = commands.add_parser("send", help="send a folder of DICOM by C-STORE")
    send.add_argument("folder", type=Path)
    send.add_argument("--to", required=True, metavar="HOST:PORT")
    send.add_argument("--aec", default="LIMN", help="AE title called (%(default)s)")
    send.add_argument("--aet", default="LIMNSEND", help="AE title calling (%(default)s)")
    send.set_defaults(run=_send)

    log = commands.add_parser("log", help="the scans and their timings")
    log.add_argument("--config", type=Path, required=True)
    log.add_argument("--csv", action="store_true", help="every column, to standard output")
    log.add_argument("--since", metavar="YYYY-MM-DD", help="scans of this day and later (UTC)")
    log.add_argument("--animal", help="only this PatientID")
    log.set_defaults(run=_log)

    release = commands.add_parser(
        "release", help="what is held for a person to see; send it, or never"
    )
    release.add_argument("--config", type=Path, required=True)
    release.add_argument("scan", nargs="*", metavar="SCAN", help="such as scan-00003; none: list")
    release.add_argument("--discard", action="store_true", help="never send it; needs --why")
    release.add_argument("--why", metavar="TEXT", help="why it is discarded, kept in the log")
    release.set_defaults(run=_release, usage=release.error)

    _add_queue(commands)
    _add_models(commands.add_parser("models", help="install, import, verify and pack bundles"))

    phantom = commands.add_parser(
        "phantom",
        help="make a phantom mouse: DICOM, RTSTRUCT, NIfTI, truth",
        epilog="'limn phantom cohort OUT' makes a whole data set (see its own --help).",
    )
    phantom.add_argument("out", type=Path)
    phantom.add_argument("--seed", type=int, default=1)
    phantom.add_argument("--spacing", type=float, default=0.2, metavar="MM")
    phantom.add_argument(
        "--size",
        type=float,
        nargs=3,
        default=(30.0, 26.0, 30.0),
        metavar=("Z", "Y", "X"),
        help="field of view in mm (default 30 26 30)",
    )
    phantom.add_argument("--neighbour", action="store_true", help="a second animal beside it")
    phantom.add_argument("--contrast", action="store_true", help="with a contrast agent")
    phantom.add_argument(
        "--position",
        choices=["HFS", "HFP", "FFS", "FFP", "HFDL", "HFDR", "FFDL", "FFDR"],
        help="how the animal lies, and the header says so (default: HFS or HFP, by the seed)",
    )
    phantom.add_argument(
        "--stack", choices=["axial", "coronal", "sagittal"], default="axial", help="(%(default)s)"
    )
    phantom.add_argument(
        "--turned",
        choices=["x", "y", "z"],
        help="a header that lies: half a turn of the pixels about this axis (x left-right, "
        "y belly-back, z tail-head)",
    )
    phantom.add_argument(
        "--mirrored",
        choices=["x", "y", "z"],
        help="a header that lies: the pixels flipped along it",
    )
    phantom.add_argument(
        "--quirk",
        action="append",
        default=[],
        metavar="NAME",
        help="what a vendor does to the series; may be repeated",
    )
    phantom.add_argument(
        "--quirks", action=_ListQuirks, nargs=0, help="list the quirks and what they do"
    )
    phantom.set_defaults(run=_phantom)

    cohort = commands.add_parser(
        COHORT, help="make a data set of phantoms: animals, days, three observers"
    )
    cohort.add_argument("out", type=Path)
    cohort.add_argument("--seed", type=int, default=0, help="another seed, other animals")
    cohort.add_argument("--animals", type=int, default=20, metavar="N", help="native (%(default)s)")
    cohort.add_argument(
        "--time-points", type=int, default=7, metavar="M", help="scans of each (%(default)s)"
    )
    cohort.add_argument(
        "--contrast-animals", type=int, default=8, metavar="N", help="enhanced (%(default)s)"
    )
    cohort.add_argument(
        "--contrast-scans",
        type=int,
        default=35,
        metavar="N",
        help="of all enhanced animals together (%(default)s)",
    )
    cohort.add_argument("--spacing", type=float, default=0.14, metavar="MM")
    cohort.add_argument(
        "--size",
        type=float,
        nargs=3,
        metavar=("Z", "Y", "X"),
        help="field of view in mm (default 30.8 25.2 28, which holds T1 to T13)",
    )
    cohort.add_argument(
        "--wide",
        action="store_true",
        help="every scan from a scanner, bed and position of its own, not two facilities' own",
    )
    cohort.add_argument("--workers", type=int, metavar="N", help="processes (default: every core)")
    cohort.set_defaults(run=_cohort)

    rois = commands.add_parser("rois", help="what a structure set of any make says about a series")
    rois.add_argument("structure_set", type=Path, metavar="RTSTRUCT")
    rois.add_argument("series", type=Path, help="folder of the CT series")
    rois.add_argument("-o", "--out", type=Path, help="write one NIfTI mask per ROI here")
    rois.set_defaults(run=_rois)

    lab = commands.add_parser("lab", help="train and measure")
    studies = lab.add_subparsers(metavar="STUDY", required=True)
    train = studies.add_parser("train-phantom", help="train the embedded bundle on phantoms")
    train.add_argument("out", type=Path)
    train.add_argument(
        "--from",
        dest="start",
        type=Path,
        metavar="BUNDLE",
        help="go on with this bundle's folds, on phantoms they have not seen",
    )
    train.set_defaults(run=_lab_train_phantom)
    figures = studies.add_parser("figures", help="the pictures of docs/phantom.md")
    figures.add_argument("out", type=Path)
    figures.add_argument("--real", type=Path, help="organ labels of a real mouse, NIfTI")
    figures.set_defaults(run=_lab_figures)
    tried = studies.add_parser("try", help="a bundle on phantoms that it never saw, scored")
    tried.add_argument("bundle", type=Path)
    tried.add_argument("out", type=Path)
    tried.add_argument(
        "--set",
        choices=["cohort", "wide", "stress"],
        default="cohort",
        help="the paper's two test sets, the same from many scanners, or odd conditions",
    )
    tried.add_argument(
        "--profile", choices=["paper", "stock", "fast"], help="default: the bundle's own"
    )
    tried.add_argument(
        "--note", action="store_true", help="write the means into the bundle's manifest"
    )
    tried.set_defaults(run=_lab_try)

    imported = studies.add_parser(
        "import", help="scans and contours of any make into one data set, each looked at"
    )
    imported.add_argument("source", type=Path, help="a folder; limn phantom cohort's needs no more")
    imported.add_argument("out", type=Path)
    imported.add_argument("--layout", type=Path, metavar="TOML", help="what lies where in SOURCE")
    imported.add_argument(
        "--split", type=Path, metavar="TOML", help="which animal trains and tests (default: drawn)"
    )
    imported.set_defaults(run=_lab_import)
    tables = studies.add_parser("tables", help="Tables 1 to 4 and box plots from scores")
    tables.add_argument("scores", type=Path, metavar="SCORES.csv")
    tables.add_argument("out", type=Path)
    tables.set_defaults(run=_lab_tables)
    study = studies.add_parser(
        "reproduce", help="the paper's study, from scans to tables; a killed one goes on"
    )
    study.add_argument(
        "config", type=Path, metavar="CONFIG.toml", help="such as config/phantom-study.toml"
    )
    study.add_argument("-o", "--out", type=Path, required=True, help="keeps all that was done")
    study.add_argument(
        "--data", type=Path, metavar="FOLDER", help="the scans, instead of data.source of CONFIG"
    )
    study.set_defaults(run=_lab_reproduce)

    demo = commands.add_parser("demo", help="one phantom through the whole node, timed")
    demo.add_argument("--out", type=Path, default=Path("demo-out"))
    demo.add_argument("--seed", type=int, default=7)
    demo.set_defaults(run=_demo)
    return parser


def _add_queue(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    queue = commands.add_parser("queue", help="what is in the node now, and what somebody must do")
    queue.add_argument("--config", type=Path, required=True)
    queue.add_argument("--json", action="store_true", help="for programs, to standard output")
    queue.set_defaults(run=_queue)

    retry = commands.add_parser("retry", help="run refused, failed or quarantined scans again")
    retry.add_argument("--config", type=Path, required=True)
    retry.add_argument("scan", nargs="+", metavar="SCAN", help="such as scan-00003")
    retry.set_defaults(run=_retry)

    resend = commands.add_parser("resend", help="offer structure sets again, the same bytes")
    resend.add_argument("--config", type=Path, required=True)
    resend.add_argument("scan", nargs="+", metavar="SCAN", help="such as scan-00003")
    resend.add_argument("--to", metavar="DESTINATION", help="its name in the config; none: all")
    resend.set_defaults(run=_resend)


def _add_models(models: argparse.ArgumentParser) -> None:
    verbs = models.add_subparsers(metavar="VERB", required=True)
    shelf = argparse.ArgumentParser(add_help=False)
    shelf.add_argument(
        "--models-dir",
        type=Path,
        metavar="DIR",
        help="where bundles are installed (default: $LIMN_MODELS, else ~/.local/share/limn/models)",
    )
    said = argparse.ArgumentParser(add_help=False)
    said.add_argument("path", type=Path, metavar="PATH", help="folder or zip")
    said.add_argument("--labels", metavar="1=ORGAN,...", help="1=Heart,2=SpinalCord,3=Lung_R,...")
    said.add_argument(
        "--orientation",
        metavar="XYZ",
        help="what the axes (z, y, x) of the training's arrays grow towards, such as SPL",
    )
    said.add_argument(
        "--check",
        type=Path,
        metavar="DIR",
        help="a DICOM series of one mouse: try every order and flip of the axes on it",
    )
    said.add_argument("--name", help="of the bundle (default: of the training)")
    said.add_argument("--version", default="1", help="of the bundle (%(default)s)")
    said.add_argument("--configuration", help="if PATH holds several, such as 3d_fullres")
    said.add_argument("--checkpoint", help="such as model_best (v1), checkpoint_best (v2)")
    said.add_argument("--trained-on", metavar="TEXT", help="animals, scanner, contrast agent")
    said.add_argument("--not-for", metavar="TEXT", help="what it must not be used for")
    said.add_argument(
        "--expected-hu", metavar="LOW,HIGH", help="of a whole scan: --expected-hu=-1200,1500"
    )
    said.add_argument("--source", default="", metavar="TEXT", help="where it came from; a DOI")
    said.add_argument("--previous", default="", help="the bundle of a cascade's first stage")

    listed = verbs.add_parser("list", parents=[shelf], help="what is installed")
    listed.set_defaults(run=_models_list)
    verified = verbs.add_parser(
        "verify", parents=[shelf], help="hash, build and ask bundles anew (default: all)"
    )
    verified.add_argument("bundle", nargs="*", help="name or folder")
    verified.set_defaults(run=_models_verify)
    installed = verbs.add_parser("install", parents=[shelf], help="a bundle: folder or packed zip")
    installed.add_argument("path", type=Path, metavar="PATH")
    installed.set_defaults(run=_models_install)
    packed = verbs.add_parser(
        "pack", parents=[said], help="one zip of a bundle, or of a result folder of nnU-Net"
    )
    packed.add_argument("-o", "--out", type=Path, help="default: NAME-VERSION.zip here")
    packed.set_defaults(run=_models_pack)
    imported = verbs.add_parser(
        "import", parents=[shelf, said], help="a training of nnU-Net v1 or v2: folder or zip"
    )
    imported.set_defaults(run=_models_import)


if __name__ == "__main__":
    sys.exit(main())
