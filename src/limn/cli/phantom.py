"""The commands that make phantoms, and the one that reads structure sets."""

from __future__ import annotations

import argparse
from pathlib import Path

from limn.cli.exits import Commands

COHORT = "phantom cohort"


def add_commands(commands: Commands) -> None:
    """The commands of phantoms and structure sets."""
    _add_phantom(commands)
    _add_cohort(commands)
    rois = commands.add_parser("rois", help="read a structure set of any maker on its series")
    rois.add_argument("structure_set", type=Path, metavar="RTSTRUCT")
    rois.add_argument("series", type=Path, help="folder of the CT series")
    rois.add_argument("-o", "--out", type=Path, help="write each ROI here, under its name")
    rois.add_argument(
        "--as",
        dest="forms",
        default="nifti",
        metavar="FORMS",
        help="with --out: any of nifti, nrrd, stl, csv, with commas between (default: %(default)s)",
    )
    rois.set_defaults(run=_rois)


def _add_phantom(commands: Commands) -> None:
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
        help="position of the animal, in image and header (default: HFS or HFP, by the seed)",
    )
    phantom.add_argument(
        "--stack", choices=["axial", "coronal", "sagittal"], default="axial", help="(%(default)s)"
    )
    phantom.add_argument(
        "--turned",
        choices=["x", "y", "z"],
        help="a wrong header: the pixels turned by 180 degrees about this axis (x left-right, "
        "y belly-back, z tail-head)",
    )
    phantom.add_argument(
        "--mirrored",
        choices=["x", "y", "z"],
        help="a wrong header: the pixels flipped along this axis",
    )
    phantom.add_argument(
        "--quirk",
        action="append",
        default=[],
        metavar="NAME",
        help="a peculiarity of some vendor's series; may be repeated",
    )
    phantom.add_argument("--quirks", action=_ListQuirks, nargs=0, help="list the quirks")
    phantom.set_defaults(run=_phantom)


def _add_cohort(commands: Commands) -> None:
    cohort = commands.add_parser(
        COHORT, help="make a data set of phantoms: animals, days, three observers"
    )
    cohort.add_argument("out", type=Path)
    cohort.add_argument("--seed", type=int, default=0, help="each seed gives other animals")
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
        help="every scan has its own scanner, bed and position, instead of two facilities'",
    )
    cohort.add_argument("--workers", type=int, metavar="N", help="processes (default: every core)")
    cohort.set_defaults(run=_cohort)


def _phantom(parsed: argparse.Namespace) -> None:
    from limn.lab.phantoms.synthesize import PhantomRequest, show_phantom

    request = PhantomRequest(
        parsed.seed,
        spacing_mm=parsed.spacing,
        size_mm=(parsed.size[0], parsed.size[1], parsed.size[2]),
        neighbour=parsed.neighbour,
        contrast=parsed.contrast,
        position=parsed.position,
        stack=parsed.stack,
        turned=parsed.turned,
        mirrored=parsed.mirrored,
        quirks=tuple(parsed.quirk),
    )
    show_phantom(parsed.out, request)


def _cohort(parsed: argparse.Namespace) -> None:
    from limn.lab.phantoms.phantom_dataset import show_cohort
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
    """Print the table and exit, whatever the other arguments are; only this imports the lab."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from limn.lab.phantoms.synthesize import quirk_table

        print(quirk_table())
        parser.exit()


def _rois(parsed: argparse.Namespace) -> None:
    from limn.domain.errors import ConfigWrong
    from limn.lab.data.rois import FORMS, show_rois

    forms = [word.strip() for word in parsed.forms.split(",")]
    if wrong := [word for word in forms if word not in FORMS]:
        msg = f"--as {','.join(wrong)}: any of {', '.join(FORMS)} expected"
        raise ConfigWrong(msg)
    show_rois(parsed.structure_set, parsed.series, parsed.out, forms)
