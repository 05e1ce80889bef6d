"""The command that commissions a site's running node."""

from __future__ import annotations

import argparse
from pathlib import Path

from limn.cli.exits import EXIT_WRONG, Commands


def add_command(commands: Commands) -> None:
    """``limn commission``."""
    command = commands.add_parser(
        "commission",
        help="send phantoms through the running node, measure what comes out, write a report",
    )
    command.add_argument("--config", type=Path, help="of the node that runs")
    command.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("commissioning"),
        metavar="DIR",
        help="every run and its report (default: %(default)s); a killed run goes on there",
    )
    command.add_argument(
        "--to",
        action="append",
        default=[],
        metavar="NAME",
        help="a destination of the config that gets sound phantoms too, one in a run; without it "
        "no planning system gets any",
    )
    command.add_argument(
        "--back",
        type=Path,
        metavar="DIR",
        help="where that planning system puts structure sets that it returns (default: where the "
        "node keeps what comes back)",
    )
    command.add_argument(
        "--wait-back",
        type=float,
        default=120.0,
        metavar="S",
        help="with nobody at the terminal: wait so long for the next of them (%(default)g)",
    )
    command.add_argument(
        "--answers", type=Path, metavar="TOML", help="what a person would answer, and tolerances"
    )
    command.add_argument(
        "--only", action="append", default=[], metavar="STEP", help="steps or groups of the plan"
    )
    anew = command.add_mutually_exclusive_group()
    anew.add_argument(
        "--amend",
        action="store_true",
        help="send nothing: write the last report of this plan anew, with what the planning system "
        "has returned and a person has answered since",
    )
    anew.add_argument(
        "--again",
        action="append",
        default=[],
        metavar="STEP",
        help="send only these steps or groups of the last report again, and write it anew; what "
        "they gave first stays in it",
    )
    command.add_argument("--aet", metavar="AE", help="AE title by which the node is called")
    command.add_argument("--list", action="store_true", help="list the steps and exit")
    command.set_defaults(run=_commission, usage=command.error)


def _commission(parsed: argparse.Namespace) -> int:
    from limn.commission.run import Wish, commission, list_steps

    if parsed.list:
        print(list_steps())
        return 0
    if parsed.config is None:
        parsed.usage("--config FILE is needed")
    wish = Wish(
        out=parsed.out,
        to=tuple(parsed.to),
        back=parsed.back,
        only=tuple(parsed.only),
        answers=parsed.answers,
        calling=parsed.aet,
        back_s=parsed.wait_back,
        amend=parsed.amend,
        again=tuple(parsed.again),
    )
    return 0 if commission(parsed.config, wish) else EXIT_WRONG
