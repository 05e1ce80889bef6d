"""Makes another bundle deliver, and the one before it again: with a name and a reason (D-273)."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from limn.domain.errors import ConfigWrong
from limn.domain.one_line import one_line
from limn.domain.shipped import bundle_named
from limn.node.config import Config, load_written_config, with_bundle
from limn.node.contour.site_bundle import deliverable_bundle, look_at
from limn.node.operate.journal_access import plain_console
from limn.node.permissions import make_private_folder
from limn.node.promotions import (
    Promotion,
    bundle_in_force,
    read_promotions,
    write_promotions,
)
from limn.node.serve.lock import only_node
from limn.node.store.disk.comparisons import read_comparisons

# The parts of a node that load a bundle and may run on one data folder.
PARTS = ("limn", "limn-worker")


def promote(config_path: Path, bundle: str, *, by: str, why: str) -> None:
    """Make a bundle deliver: at once if no node runs, otherwise between two of its scans.

    Raises
    ------
    ConfigWrong
        If it delivers already.
    BundleUnfit
        If it may not deliver here.
    """
    written = load_written_config(config_path)
    folder = Path(os.path.normpath(Path.cwd() / bundle_named(bundle)))
    _ask(config_path, written, folder, by, why)


def take_back(config_path: Path, *, by: str, why: str) -> None:
    """Make the bundle deliver again that delivered before the last promotion.

    One that waits is withdrawn.

    Raises
    ------
    ConfigWrong
        If nothing was promoted.
    """
    written = load_written_config(config_path)
    promotions = read_promotions(written.data_dir)
    if promotions and promotions[-1].waits:
        reason = f"withdrawn: {by}: {why}"
        write_promotions(
            written.data_dir, [*promotions[:-1], replace(promotions[-1], refused=reason)]
        )
        plain_console().print(f"{promotions[-1].label} is withdrawn; the node had not taken it up")
        return
    taken = [each for each in promotions if each.in_force_at is not None]
    if not taken or taken[-1].config_bundle != str(written.model.bundle):
        msg = f"nothing was promoted since {config_path} names {written.model.bundle}"
        raise ConfigWrong(msg)
    _ask(config_path, written, Path(taken[-1].instead_of), by, why)


def show_promotions(config_path: Path) -> None:
    """Print which bundle delivers and every promotion, oldest first."""
    written = load_written_config(config_path)
    console = plain_console()
    for each in read_promotions(written.data_dir):
        console.print(_line(each))
    folder = bundle_in_force(written.data_dir, written.model.bundle)
    found = look_at(folder)
    source = "a promotion" if folder != written.model.bundle else str(config_path)
    console.print(f"{found.label}, {found.sha256[:12]}, delivers, by {source}")


def _ask(config_path: Path, written: Config, folder: Path, by: str, why: str) -> None:
    """Write the promotion down, verified, and print what comes of it."""
    before_folder = bundle_in_force(written.data_dir, written.model.bundle)
    before = look_at(before_folder)
    after = deliverable_bundle(with_bundle(written, folder))
    if after.sha256 == before.sha256:
        msg = f"{after.label}, {after.sha256[:12]}, delivers already"
        raise ConfigWrong(msg)
    promotion = Promotion(
        bundle=str(folder),
        label=after.label,
        sha256=after.sha256,
        instead_of=str(before_folder),
        instead_label=before.label,
        config_bundle=str(written.model.bundle),
        by=one_line(by),
        why=one_line(why),
        asked_at=time.time(),
    )
    make_private_folder(written.data_dir)
    with ExitStack() as stack:
        runs = not _locked(written, stack)
        known = [
            replace(each, refused=f"{promotion.label} was promoted after it")
            if each.waits
            else each
            for each in read_promotions(written.data_dir)
        ]
        now = None if runs else promotion.asked_at
        write_promotions(written.data_dir, [*known, replace(promotion, in_force_at=now)])
    _print(config_path, written, promotion, runs=runs)


def _locked(config: Config, stack: ExitStack) -> bool:
    """Keep every part of a node from starting; False if one runs."""
    try:
        for part in PARTS:
            stack.enter_context(only_node(config, part))
    except ConfigWrong:
        return False
    return True


def _print(config_path: Path, config: Config, promotion: Promotion, *, runs: bool) -> None:
    console = plain_console()
    compared = [
        each
        for each in read_comparisons(config.shadow_dir, promotion.sha256)
        if each.outcome == "compared"
    ]
    if compared:
        console.print(
            f"{promotion.label} was compared as the shadow on {len(compared)} scans: "
            f"limn models compare --config {config_path}"
        )
    else:
        console.print(f"no scan was compared with {promotion.label} as the shadow (model.shadow)")
    if runs:
        console.print(
            f"the node runs: {promotion.label} delivers once nothing comes in, waits or runs; then "
            "its processes start again, and scanners are refused for some seconds. To see whether "
            f"it has: limn models promote --config {config_path}"
        )
    else:
        console.print(f"{promotion.label} delivers from the node's next start")
    if config.engine.scheduler != "local" or config.engine.tls_dir is not None:
        console.print(
            "this host alone: give the same command on every host of the node, or its scans wait "
            "for a worker with the same bundle"
        )


def _line(each: Promotion) -> str:
    if each.refused:
        state = f"not taken up: {each.refused}"
    elif each.in_force_at is None:
        state = "waits for a lull of the node"
    else:
        state = f"in force since {_utc(each.in_force_at)}"
    return (
        f"{_utc(each.asked_at)} {each.label}, {each.sha256[:12]}, in the place of "
        f"{each.instead_label}: {each.by}: {each.why}; {state}"
    )


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
