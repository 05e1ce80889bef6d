"""The commands of ``limn models``: list, verify, install, pack, import, compare, promote."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from limn.cli.exits import EXIT_WRONG, Commands

if TYPE_CHECKING:
    from limn.bundles.importing import ImportOptions


def add_commands(commands: Commands) -> None:
    """The commands of ``limn models``."""
    models = commands.add_parser("models", help="install, import, verify and pack bundles")
    verbs = models.add_subparsers(metavar="VERB", required=True)
    shelf, training = _shelf_options(), _training_options()
    listed = verbs.add_parser("list", parents=[shelf], help="what is installed")
    listed.set_defaults(run=_models_list)
    verified = verbs.add_parser(
        "verify", parents=[shelf], help="check hashes and answers of bundles (default: all)"
    )
    verified.add_argument("bundle", nargs="*", help="name or folder")
    verified.set_defaults(run=_models_verify)
    installed = verbs.add_parser("install", parents=[shelf], help="a bundle: folder or packed zip")
    installed.add_argument("path", type=Path, metavar="PATH")
    installed.set_defaults(run=_models_install)
    packed = verbs.add_parser(
        "pack", parents=[training], help="one zip of a bundle, or of a result folder of nnU-Net"
    )
    packed.add_argument("-o", "--out", type=Path, help="default: NAME-VERSION.zip here")
    packed.set_defaults(run=_models_pack)
    imported = verbs.add_parser(
        "import", parents=[shelf, training], help="a training of nnU-Net v1 or v2: folder or zip"
    )
    imported.set_defaults(run=_models_import)
    _add_compare(verbs)
    _add_promote(verbs)


def _add_compare(verbs: Commands) -> None:
    compared = verbs.add_parser(
        "compare", help="how the shadow bundle (model.shadow) differs from what was delivered"
    )
    compared.add_argument("--config", type=Path, required=True)
    compared.add_argument(
        "--last", type=int, default=50, metavar="N", help="so many scans (%(default)s); 0: all"
    )
    compared.add_argument("--csv", action="store_true", help="a row for each organ of each scan")
    compared.set_defaults(run=_models_compare)


def _models_compare(parsed: argparse.Namespace) -> None:
    from limn.node.operate.bundles.compare import show_comparisons

    show_comparisons(parsed.config, last=max(0, parsed.last), as_csv=parsed.csv)


def _add_promote(verbs: Commands) -> None:
    promoted = verbs.add_parser(
        "promote", help="make another bundle deliver, or list who made which do so"
    )
    promoted.add_argument(
        "bundle", nargs="?", metavar="BUNDLE", help="name or folder; none, and no --back: list"
    )
    promoted.add_argument("--config", type=Path, required=True)
    promoted.add_argument(
        "--back", action="store_true", help="the bundle that delivered before the last promotion"
    )
    promoted.add_argument("--by", metavar="NAME", help="who decides")
    promoted.add_argument("--why", metavar="TEXT", help="the reason, kept with the name")
    promoted.set_defaults(run=_models_promote, usage=promoted.error)


def _models_promote(parsed: argparse.Namespace) -> None:
    from limn.node.operate.bundles.promote import promote, show_promotions, take_back

    if parsed.bundle and parsed.back:
        parsed.usage("give BUNDLE or --back, not both")
    changes = bool(parsed.bundle or parsed.back)
    if changes and not (parsed.by and parsed.why):
        parsed.usage("a promotion needs --by NAME and --why TEXT")
    if not changes and (parsed.by or parsed.why):
        parsed.usage("--by and --why want BUNDLE or --back")
    if parsed.bundle:
        promote(parsed.config, parsed.bundle, by=parsed.by, why=parsed.why)
    elif parsed.back:
        take_back(parsed.config, by=parsed.by, why=parsed.why)
    else:
        show_promotions(parsed.config)


def _models_list(parsed: argparse.Namespace) -> None:
    from limn.bundles.manage import show_list

    show_list(parsed.models_dir)


def _models_verify(parsed: argparse.Namespace) -> int:
    from limn.bundles.manage import verify

    return 0 if verify(parsed.models_dir, parsed.bundle) else EXIT_WRONG


def _models_install(parsed: argparse.Namespace) -> None:
    from limn.bundles.manage import install

    install(parsed.models_dir, parsed.path)


def _models_pack(parsed: argparse.Namespace) -> None:
    from limn.bundles.manage import pack

    pack(parsed.path, parsed.out, _import_options(parsed))


def _models_import(parsed: argparse.Namespace) -> None:
    from limn.bundles.importing import import_model

    import_model(parsed.models_dir, parsed.path, _import_options(parsed))


def _shelf_options() -> argparse.ArgumentParser:
    shelf = argparse.ArgumentParser(add_help=False)
    shelf.add_argument(
        "--models-dir",
        type=Path,
        metavar="DIR",
        help="where bundles are installed (default: $LIMN_MODELS, else ~/.local/share/limn/models)",
    )
    return shelf


def _training_options() -> argparse.ArgumentParser:
    """Options that describe a training which is imported or packed."""
    training = argparse.ArgumentParser(add_help=False)
    training.add_argument("path", type=Path, metavar="PATH", help="folder or zip")
    training.add_argument("--labels", metavar="1=ORGAN,...", help="such as 1=Heart,2=Liver")
    training.add_argument(
        "--roles",
        metavar="heart=ORGAN,...",
        help="which organs are heart, cord, lung_r, lung_l (default: those with TG-263's names)",
    )
    training.add_argument(
        "--orientation",
        metavar="XYZ",
        help="what the axes (z, y, x) of the training's arrays grow towards, such as SPL",
    )
    training.add_argument(
        "--check",
        type=Path,
        metavar="DIR",
        help="a DICOM series of one mouse: try every order and flip of the axes on it",
    )
    training.add_argument("--name", help="of the bundle (default: of the training)")
    training.add_argument("--version", default="1", help="of the bundle (%(default)s)")
    training.add_argument("--configuration", help="if PATH holds several, such as 3d_fullres")
    training.add_argument("--checkpoint", help="such as model_best (v1), checkpoint_best (v2)")
    training.add_argument("--trained-on", metavar="TEXT", help="animals, scanner, contrast agent")
    training.add_argument("--not-for", metavar="TEXT", help="what it must not be used for")
    training.add_argument(
        "--expected-hu", metavar="LOW,HIGH", help="of a whole scan: --expected-hu=-1200,1500"
    )
    training.add_argument("--source", default="", metavar="TEXT", help="where it came from; a DOI")
    training.add_argument("--previous", default="", help="the bundle of a cascade's first stage")
    return training


def _import_options(parsed: argparse.Namespace) -> ImportOptions:
    from limn.bundles.importing import ImportOptions

    return ImportOptions(
        name=parsed.name,
        version=parsed.version,
        labels=parsed.labels,
        roles=parsed.roles,
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
