"""The commands of the node: serve, check, contour, log, queue, release and the rest."""

from __future__ import annotations

import argparse
from pathlib import Path

from limn.cli import arguments
from limn.cli.exits import EXIT_WRONG, Commands


def add_commands(commands: Commands) -> None:
    """Commands that set up and run a node: serve, check, contour, certs, send, backup."""
    _add_init(commands)
    _add_serve(commands)
    _add_check(commands)
    _add_contour(commands)
    _add_certs(commands)
    _add_send(commands)
    _add_backup(commands)


def add_scan_commands(commands: Commands) -> None:
    """An operator's commands about scans: log, release, queue, retry, rerun and the rest."""
    _add_log(commands)
    _add_release(commands)
    _add_queue(commands)
    _add_watch(commands)
    _add_retry(commands)
    _add_rerun(commands)
    _add_resend(commands)
    _add_name(commands)


def _add_init(commands: Commands) -> None:
    init = commands.add_parser("init", help="ask a few questions and write a site's config")
    init.add_argument("file", type=Path, nargs="?", default=Path("limn.toml"), metavar="FILE")
    for option, metavar, meaning in (
        ("bundle", "NAME", "which bundle contours: folder, or name in `limn models list`"),
        ("data-dir", "DIR", "where spool, journal, results and logs go"),
        ("listen", "ADDRESS", "on which scanners call; 0.0.0.0: from other machines"),
        ("port", "N", "on which scanners call"),
        ("ae-title", "AE", "by which scanners call"),
        (
            "planning-system",
            "AE@HOST:PORT",
            "where structure sets go by DICOM; or a folder for them",
        ),
    ):
        init.add_argument(f"--{option}", metavar=metavar, help=meaning)
    init.add_argument(
        "--service",
        choices=["systemd", "launchd", "task"],
        help="also write the file by which Linux, macOS or Windows starts the node",
    )
    init.set_defaults(run=_init)


def _init(parsed: argparse.Namespace) -> None:
    from limn.node.operate.init import QUESTIONS, from_terminal, init

    given = {each.option: getattr(parsed, each.option) for each in QUESTIONS}
    lines = init(parsed.file, given, from_terminal())
    if parsed.service:
        from limn.node.config import load_config
        from limn.node.operate.service import write_service

        lines += write_service(parsed.service, parsed.file, load_config(parsed.file))
    print("\n".join(lines))


def _add_serve(commands: Commands) -> None:
    serve = _with_config(commands, "serve", "run the node until Ctrl-C")
    serve.add_argument(
        "--only",
        choices=["receiver", "scheduler", "worker", "engine", "board", "shadow"],
        metavar="PART",
        help="this host's part of a node on several: receiver (with dispatch and delivery), "
        "scheduler or worker (deploy/README.md)",
    )
    # The supervisor starts the processes that it watches with this flag.
    serve.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    serve.set_defaults(run=_serve)


def _serve(parsed: argparse.Namespace) -> None:
    if not parsed.child:
        from limn.node.serve.supervisor import Supervisor

        Supervisor(parsed.config, parsed.only).run()
    elif parsed.only == "receiver":
        from limn.node.serve.receiver import run_receiver

        run_receiver(parsed.config)
    elif parsed.only == "engine":
        from limn.node.serve.engine import run_engine

        run_engine(parsed.config)
    elif parsed.only == "board":
        from limn.node.board.run import run_board

        run_board(parsed.config)
    elif parsed.only == "shadow":
        from limn.node.shadow.watch import run_shadow

        run_shadow(parsed.config)


def _add_name(commands: Commands) -> None:
    name = _with_config(commands, "name", "give one of several animals in a field its name")
    name.add_argument("scan", metavar="SCAN")
    name.add_argument("name", metavar="NAME")
    name.add_argument("--by", metavar="PERSON", help="who says so, for the journal")
    name.set_defaults(run=_name)


def _name(parsed: argparse.Namespace) -> None:
    from limn.node.operate.name import name_animal

    name_animal(parsed.config, parsed.scan, parsed.name, by=parsed.by)


def _add_check(commands: Commands) -> None:
    check = _with_config(commands, "check", "try config, bundle, model and peers")
    check.add_argument(
        "--only",
        choices=["receiver", "scheduler", "worker"],
        metavar="PART",
        help="what limn serve --only PART needs on this host",
    )
    check.set_defaults(run=_check)


def _check(parsed: argparse.Namespace) -> int:
    from limn.node.operate.check import check

    return 0 if check(parsed.config, parsed.only) else EXIT_WRONG


def _add_contour(commands: Commands) -> None:
    contour = commands.add_parser(
        "contour", help="contour folders of DICOM into a folder; nothing is sent"
    )
    contour.add_argument(
        "folder",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="folders of DICOM, one series or any number; or one scan that is a zip, NIfTI, NRRD, "
        "MetaImage, Inveon or SkyScan",
    )
    contour.add_argument("-o", "--out", type=Path, required=True)
    chosen = contour.add_mutually_exclusive_group()
    chosen.add_argument(
        "--bundle",
        type=arguments.bundle,
        help="folder or name; default: the embedded demonstration bundle",
    )
    chosen.add_argument("--config", type=Path, help="of a site; its node contours if it runs")
    contour.add_argument(
        "--as",
        dest="forms",
        default="rtstruct",
        metavar="FORM,...",
        help="rtstruct, seg (DICOM), nifti, nrrd (3D Slicer), stl, csv; default: rtstruct",
    )
    contour.add_argument(
        "--lie",
        default="",
        metavar="LETTERS",
        help="of an image that doesn't say it: where its axes z, y, x grow to, such as SPL",
    )
    contour.add_argument(
        "--two-animals",
        choices=("largest", "central", "refuse", "each"),
        help="which of several animals in a field; default: largest, or what --config says",
    )
    contour.add_argument(
        "--one-file",
        action="store_true",
        help="with each: one RS.dcm for all animals, its ROIs named Heart^1, Heart^2, ...",
    )
    contour.add_argument(
        "--against",
        type=Path,
        metavar="OLD",
        help="the --out of an earlier run on the same folders: a table of how each contour differs "
        "from it, and the scans that differ most drawn",
    )
    contour.set_defaults(run=_contour)


def _contour(parsed: argparse.Namespace) -> int:
    from limn.node.batch.many_folders import contour_folders
    from limn.node.contour.work.forms import forms_of

    done = contour_folders(
        parsed.folder,
        parsed.out,
        parsed.bundle,
        parsed.config,
        parsed.two_animals,
        forms_of(parsed.forms),
        parsed.lie,
        one_file=parsed.one_file,
        against=parsed.against,
    )
    return 0 if done else EXIT_WRONG


def _add_certs(commands: Commands) -> None:
    certs = commands.add_parser(
        "certs", help="certificates for the hosts of a node and for its DICOM peers"
    )
    certs.add_argument(
        "out", type=Path, metavar="OUT", help="keeps both authorities; run again to add"
    )
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


def _certs(parsed: argparse.Namespace) -> None:
    from limn.node.host import certs

    hosts = [certs.Host.parse(text) for text in parsed.host]
    peers = [certs.Host.parse(text) for text in parsed.peer]
    if not hosts and not peers:
        hosts = [certs.Host.this()]
    folders = certs.make(parsed.out, hosts, peers, certs.now_utc())
    print(certs.explain(parsed.out, folders), end="")


def _add_send(commands: Commands) -> None:
    send = commands.add_parser("send", help="send a folder of DICOM by C-STORE")
    send.add_argument("folder", type=Path)
    send.add_argument("--to", required=True, metavar="HOST:PORT")
    send.add_argument("--aec", default="LIMN", help="AE title called (%(default)s)")
    send.add_argument("--aet", default="LIMNSEND", help="AE title calling (%(default)s)")
    send.set_defaults(run=_send)


def _send(parsed: argparse.Namespace) -> None:
    from limn.node.operate.send import send_folder

    send_folder(parsed.folder, parsed.to, called=parsed.aec, calling=parsed.aet)


def _add_backup(commands: Commands) -> None:
    backup = _with_config(commands, "backup", "copy journal and scan log, also of a running node")
    backup.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    backup.set_defaults(run=_backup)


def _backup(parsed: argparse.Namespace) -> None:
    from limn.node.operate.backup import back_up

    back_up(parsed.config, parsed.out)


def _add_log(commands: Commands) -> None:
    log = _with_config(commands, "log", "the scans and their timings")
    log.add_argument("--csv", action="store_true", help="every column, to standard output")
    log.add_argument("--since", metavar="YYYY-MM-DD", help="scans of this day and later (UTC)")
    log.add_argument("--until", metavar="YYYY-MM-DD", help="scans of this day and earlier (UTC)")
    log.add_argument("--animal", metavar="ID", help="only this PatientID; * stands for any text")
    log.add_argument("--scanner", metavar="AE", help="only of this sender; * stands for any text")
    log.add_argument("--light", metavar="LIGHT", help="only green, amber or red ones")
    log.add_argument("--flag", metavar="FLAG", help="only with this flag, such as held or cut")
    log.add_argument(
        "--without", metavar="FLAG", help="only without this flag, such as commissioning"
    )
    log.add_argument("--bundle", metavar="NAME", help="only of this bundle")
    log.add_argument(
        "--slower-than",
        dest="slower_s",
        metavar="S",
        help="only those that took so many seconds from door to door, and more",
    )
    log.add_argument(
        "--summary", action="store_true", help="what is usual among them, and the slowest and why"
    )
    log.add_argument(
        "--edits",
        action="store_true",
        help="what persons changed in the contours that came back; --csv: every column",
    )
    log.add_argument(
        "--last", type=int, default=100, metavar="N", help="so many (%(default)s); 0: all"
    )
    log.set_defaults(run=_log)


def _log(parsed: argparse.Namespace) -> None:
    from dataclasses import fields

    from limn.node.operate.history.choice import Choice, given_choice
    from limn.node.operate.history.edits import show_edits
    from limn.node.operate.log import show

    given = {each.name: getattr(parsed, each.name) for each in fields(Choice)}
    if parsed.edits:
        last = max(0, parsed.last)
        show_edits(parsed.config, given_choice("--", **given), as_csv=parsed.csv, last=last)
        return
    show(
        parsed.config,
        given_choice("--", **given),
        as_csv=parsed.csv,
        summary=parsed.summary,
        last=max(0, parsed.last),
    )


def _add_release(commands: Commands) -> None:
    release = _with_config(commands, "release", "list, send or discard what waits for a person")
    release.add_argument("scan", nargs="*", metavar="SCAN", help="such as scan-00003; none: list")
    release.add_argument(
        "--discard",
        action="store_true",
        help="never send it; a refused, failed or quarantined scan leaves the queue; needs --why",
    )
    release.add_argument(
        "--by",
        metavar="NAME",
        help="who decides; needed for a mirror image, for left and right in doubt and for a red "
        "light",
    )
    release.add_argument("--why", metavar="TEXT", help="the reason, kept in the log")
    release.add_argument("--yes", action="store_true", help="do not ask, at a terminal either")
    release.set_defaults(run=_release, usage=release.error)


def _release(parsed: argparse.Namespace) -> None:
    from limn.node.operate.release import discard, list_held, release

    if parsed.discard and (parsed.why is None or not parsed.scan):
        parsed.usage("--discard wants SCAN and --why TEXT")
    if not parsed.scan and (parsed.by is not None or parsed.why is not None or parsed.yes):
        parsed.usage("--by, --why and --yes want SCAN")
    given = {"by": parsed.by, "why": parsed.why, "yes": parsed.yes}
    if parsed.discard:
        discard(parsed.config, parsed.scan, **given)
    elif parsed.scan:
        release(parsed.config, parsed.scan, **given)
    else:
        list_held(parsed.config)


def _add_queue(commands: Commands) -> None:
    queue = _with_config(commands, "queue", "what is in the node now, and what a person must do")
    queue.add_argument("--json", action="store_true", help="for programs, to standard output")
    queue.set_defaults(run=_queue)


def _queue(parsed: argparse.Namespace) -> None:
    from limn.node.operate.queue import show

    show(parsed.config, as_json=parsed.json)


def _add_watch(commands: Commands) -> None:
    watch = _with_config(commands, "watch", "show live what comes in, runs and needs a person")
    watch.set_defaults(run=_watch)


def _watch(parsed: argparse.Namespace) -> None:
    from limn.node.operate.watch import watch

    watch(parsed.config)


def _add_retry(commands: Commands) -> None:
    retry = _with_config(commands, "retry", "run refused, failed or quarantined scans again")
    retry.add_argument("scan", nargs="+", metavar="SCAN", help="such as scan-00003")
    retry.set_defaults(run=_retry)


def _retry(parsed: argparse.Namespace) -> None:
    from limn.node.operate.retry import retry

    retry(parsed.config, parsed.scan)


def _add_rerun(commands: Commands) -> None:
    rerun = _with_config(
        commands, "rerun", "contour a scan again with another bundle, as a new version of it"
    )
    rerun.add_argument("scan", metavar="SCAN", help="such as scan-00003")
    rerun.add_argument("--bundle", metavar="NAME-VERSION", help="none: list those to choose of")
    rerun.add_argument("--by", metavar="NAME", help="who orders it; needed with --bundle")
    rerun.add_argument("--why", metavar="TEXT", help="the reason; needed with --bundle")
    rerun.set_defaults(run=_rerun, usage=rerun.error)


def _rerun(parsed: argparse.Namespace) -> None:
    from limn.node.operate.reruns.rerun import list_choices, rerun

    if parsed.bundle is None:
        list_choices(parsed.config, parsed.scan)
        return
    if parsed.by is None or parsed.why is None:
        parsed.usage("--bundle wants --by NAME and --why TEXT")
    rerun(parsed.config, parsed.scan, parsed.bundle, by=parsed.by, why=parsed.why)


def _add_resend(commands: Commands) -> None:
    resend = _with_config(commands, "resend", "offer structure sets again, the same bytes")
    resend.add_argument("scan", nargs="+", metavar="SCAN", help="such as scan-00003")
    resend.add_argument("--to", metavar="DESTINATION", help="its name in the config; none: all")
    resend.set_defaults(run=_resend)


def _resend(parsed: argparse.Namespace) -> None:
    from limn.node.operate.retry import resend

    resend(parsed.config, parsed.scan, parsed.to)


def add_demo(commands: Commands) -> None:
    """``limn demo``."""
    demo = commands.add_parser("demo", help="one phantom through the whole node, timed")
    demo.add_argument("--out", type=Path, default=Path("demo-out"))
    demo.add_argument("--seed", type=int, default=7)
    demo.add_argument(
        "--board", action="store_true", help="leave the node and its board running, until Ctrl-C"
    )
    demo.set_defaults(run=_demo)


def _demo(parsed: argparse.Namespace) -> int:
    from limn.demo import demo

    return 0 if demo(parsed.out, parsed.seed, board=parsed.board) else EXIT_WRONG


def _with_config(commands: Commands, name: str, purpose: str) -> argparse.ArgumentParser:
    """A command with the option that names a node's config."""
    command = commands.add_parser(name, help=purpose)
    command.add_argument("--config", type=Path, required=True)
    return command
