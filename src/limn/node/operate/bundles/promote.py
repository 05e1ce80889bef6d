"""Makes another bundle deliver, and the one before it again: with a name and a reason (D-273)."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from limn.domain.errors import BundleUnfit, ConfigWrong
from limn.domain.shipped import bundle_named
from limn.node.config import Config, load_written_config, with_bundle
from limn.node.contour.site_bundle import deliverable_bundle, look_at
from limn.node.operate.decisions import given_text
from limn.node.operate.journal_access import plain_console
from limn.node.permissions import make_private_folder
from limn.node.promotions import (
    Promotion,
    bundle_in_force,
    changing_promotions,
    end_wait,
    promotion_in_force,
    read_promotions,
    waiting_promotion,
    write_promotions,
)
from limn.node.serve.lock import only_node
from limn.node.store.disk.comparisons import read_comparisons
from limn.node.store.remedies import NAME, TEXT

# The parts of a node that load a bundle and may run on one data folder.
PARTS = ("limn", "limn-worker")


def promote(config_path: Path, bundle: str, *, by: str, why: str) -> None:
    """Make a bundle deliver: at once if no node runs, otherwise between two of its scans.

    Raises
    ------
    ConfigWrong
        If it delivers already, or there is no name or no reason.
    BundleUnfit
        If it may not deliver here.
    """
    by, why = given_text("--by", by, NAME), given_text("--why", why, TEXT)
    written = load_written_config(config_path)
    folder = Path(os.path.normpath(Path.cwd() / bundle_named(bundle)))
    _ask(config_path, written, folder, by, why)


def take_back(config_path: Path, *, by: str, why: str) -> None:
    """Make the bundle deliver again that delivered before the last promotion.

    One that waits is withdrawn.

    Raises
    ------
    ConfigWrong
        If nothing was promoted, or there is no name or no reason.
    """
    by, why = given_text("--by", by, NAME), given_text("--why", why, TEXT)
    written = load_written_config(config_path)
    waits = waiting_promotion(written.data_dir)
    reason = f"withdrawn: {by}: {why}"
    if waits is not None and end_wait(written.data_dir, waits, time.time(), reason) is not None:
        plain_console().print(f"{waits.label} is withdrawn; the node had not taken it up")
        return
    taken = promotion_in_force(written.data_dir)
    if taken is None or taken.config_bundle != str(written.model.bundle):
        msg = f"nothing was promoted since {config_path} names {written.model.bundle}"
        raise ConfigWrong(msg)
    _ask(config_path, written, Path(taken.instead_of), by, why)


def show_promotions(config_path: Path) -> None:
    """Print which bundle delivers and every promotion, oldest first."""
    written = load_written_config(config_path)
    console = plain_console()
    for each in read_promotions(written.data_dir):
        console.print(_line(each))
    folder = bundle_in_force(written.data_dir, written.model.bundle)
    label, sha256 = _label_and_hash(folder)
    source = "a promotion" if folder != written.model.bundle else str(config_path)
    console.print(f"{label}, {sha256[:12] or 'which is no bundle any more'}, delivers, by {source}")


def _ask(config_path: Path, written: Config, folder: Path, by: str, why: str) -> None:
    """Write the promotion down, verified, and print what comes of it."""
    after = deliverable_bundle(with_bundle(written, folder))
    make_private_folder(written.data_dir)
    with ExitStack() as stack:
        stack.enter_context(changing_promotions(written.data_dir))
        runs = not _locked(written, stack)
        before_folder = bundle_in_force(written.data_dir, written.model.bundle)
        before_label, before_sha256 = _label_and_hash(before_folder)
        if after.sha256 == before_sha256:
            msg = f"{after.label}, {after.sha256[:12]}, delivers already"
            raise ConfigWrong(msg)
        promotion = Promotion(
            bundle=str(folder),
            label=after.label,
            sha256=after.sha256,
            instead_of=str(before_folder),
            instead_label=before_label,
            config_bundle=str(written.model.bundle),
            by=by,
            why=why,
            asked_at=time.time(),
        )
        known = [
            replace(each, refused=f"{promotion.label} was promoted after it")
            if each.waits
            else each
            for each in read_promotions(written.data_dir)
        ]
        now = None if runs else promotion.asked_at
        write_promotions(written.data_dir, [*known, replace(promotion, in_force_at=now)])
    _print(config_path, written, promotion, runs=runs)


def _label_and_hash(folder: Path) -> tuple[str, str]:
    """Of a bundle that delivers; its folder's name and no hash if it can't be read any more."""
    try:
        found = look_at(folder)
    except BundleUnfit:
        return folder.name, ""
    return found.label, found.sha256


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
    elif promotion.bundle not in {each.instead_of for each in read_promotions(config.data_dir)}:
        # One that delivered here before needs no comparison.
        console.print(
            f"no scan was compared with {promotion.label} as the shadow (model.shadow), so nobody "
            "has seen how it differs on this node's scans"
        )
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
        state = f"not in force: {each.refused}"
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
