"""The commands of the node: serve, check, contour, log, queue, release and the rest."""

from __future__ import annotations

import argparse
from pathlib import Path

from limn.cli.exits import EXIT_WRONG, Commands
from limn.node.serve import engine, receiver


def _serve(parsed: argparse.Namespace) -> None:
    from limn.node.serve import supervisor

    if parsed.child:
        run = {"receiver": receiver.run_receiver, "engine": engine.run_engine}
        run[parsed.only](parsed.config)
    else:
        supervisor.Supervisor(parsed.config, parsed.only).run()


def _certs(parsed: argparse.Namespace) -> None:
    from limn.node.host import certs

    hosts = [certs.Host.parse(text) for text in parsed.host]
    peers = [certs.Host.parse(text) for text in parsed.peer]
    if not hosts and not peers:
        hosts = [certs.Host.this()]
    folders = certs.make(parsed.out, hosts, peers, certs.now_utc())
    print(certs.explain(parsed.out, folders), end="")


def _check(parsed: argparse.Namespace) -> int:
    from limn.node.operate.check import check

    return 0 if check(parsed.config, parsed.only) else EXIT_WRONG


def _contour(parsed: argparse.Namespace) -> int:
    from limn.node.batch.many_folders import contour_folders

    done = contour_folders(parsed.folder, parsed.out, parsed.bundle, parsed.config)
    return 0 if done else EXIT_WRONG


def _send(parsed: argparse.Namespace) -> None:
    from limn.node.operate.send import send_folder

    send_folder(parsed.folder, parsed.to, called=parsed.aec, calling=parsed.aet)


def _log(parsed: argparse.Namespace) -> None:
    from limn.node.operate.log import show

    show(parsed.config, as_csv=parsed.csv, since=parsed.since, animal=parsed.animal)


def _release(parsed: argparse.Namespace) -> None:
    from limn.node.operate.release import discard, release

    if parsed.discard != (parsed.why is not None) or (parsed.discard and not parsed.scan):
        parsed.usage("--discard wants SCAN and --why TEXT, and --why goes with --discard alone")
    if parsed.discard:
        discard(parsed.config, parsed.scan, parsed.why)
    else:
        release(parsed.config, parsed.scan)


def _queue(parsed: argparse.Namespace) -> None:
    from limn.node.operate.queue import show

    show(parsed.config, as_json=parsed.json)


def _retry(parsed: argparse.Namespace) -> None:
    from limn.node.operate.retry import retry

    retry(parsed.config, parsed.scan)


def _resend(parsed: argparse.Namespace) -> None:
    from limn.node.operate.retry import resend

    resend(parsed.config, parsed.scan, parsed.to)


def _demo(parsed: argparse.Namespace) -> int:
    from limn.demo import demo

    return 0 if demo(parsed.out, parsed.seed) else EXIT_WRONG


def add_commands(commands: Commands) -> None:
    """The commands of the node, but for what an operator does about a scan."""
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


def add_scan_commands(commands: Commands) -> None:
    """What an operator asks about a scan, and does about it."""
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


def add_demo(commands: Commands) -> None:
    """``limn demo``."""
    demo = commands.add_parser("demo", help="one phantom through the whole node, timed")
    demo.add_argument("--out", type=Path, default=Path("demo-out"))
    demo.add_argument("--seed", type=int, default=7)
    demo.set_defaults(run=_demo)
