"""Decides whether a bundle's networks run in int8 on this processor, and keeps the verdict.

int8 is taken only where it was measured on the bundle's own sample: labels of all folds together
near those of fp32, no organ further from the truth, and less time than bf16 or fp32 takes here.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import torch

from limn.domain.files import OWNER_ONLY_FILE, write_durably
from limn.segment.bundle.bundle import Bundle, Ranges
from limn.segment.bundle.sample import Sample, read_sample
from limn.segment.engine import openvino_net
from limn.segment.engine.networks import OpenVinoNetworks, load_fold, most_streams
from limn.segment.engine.plans import Plan, read_plan

# Verdicts of another way to quantise, or to decide, are made anew.
VERSION = 1
# Every organ's DSC between int8 and fp32.
LEAST_DSC = 0.99
# What an organ's DSC to the truth may lose.
MOST_LOST = 0.003
# An organ of fewer voxels in the sample says nothing.
LEAST_VOXELS = 50
# Share of the time of bf16 or fp32; what is gained must be more than chance.
MOST_TIME = 0.95
TIMED_PASSES = 3
# Folder of verdicts beside the installed bundles.
BESIDE_BUNDLES = ".int8"

Logits = list[npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether int8 is used, and why.

    Attributes
    ----------
    ranges : for each fold; () if int8 is not used
    """

    reason: str
    ranges: tuple[Ranges, ...] = ()


def with_int8(
    bundle: Bundle, report: Callable[[str], None], kept_in: Sequence[Path] = ()
) -> Bundle:
    """The bundle with `Bundle.int8_ranges` if int8 is good here; a CPU's verdict is made once.

    Parameters
    ----------
    report : takes the verdict as one line
    kept_in : folders of verdicts beside the user's cache; each is read and written, and made if
        the folder that holds it exists

    Raises
    ------
    BundleUnfit
        If plans, weights and sample do not fit together.
    """
    plan = read_plan(bundle)
    if bundle.sample is None or not openvino_net.can_build(plan.architecture):
        return bundle
    name = _file_name(bundle)
    folders = [*_user_cache(), *kept_in]
    for folder in (*folders, bundle.folder.parent / BESIDE_BUNDLES):
        verdict = _read(folder / name, bundle)
        if verdict is not None:
            report(f"{verdict.reason} (found before, {folder / name})")
            return replace(bundle, int8_ranges=verdict.ranges)
    try:
        verdict = decide(bundle, plan)
    except RuntimeError as error:
        # OpenVINO's only type: the sample may not fit into memory. Nothing is kept.
        report(f"int8 is not used: it can't be tried ({' '.join(str(error).split())[:300]})")
        return bundle
    if _keep(verdict, bundle, [folder / name for folder in folders]):
        report(verdict.reason)
    else:
        tried = ", ".join(str(folder) for folder in folders) or "no folder"
        report(f"{verdict.reason}; can't be written ({tried}), so the next start tries again")
    return replace(bundle, int8_ranges=verdict.ranges)


def decide(bundle: Bundle, plan: Plan) -> Verdict:
    """Run the sample in int8, and in the precision that would run otherwise, and compare.

    Raises
    ------
    BundleUnfit
        If plans, weights and sample do not fit together.
    """
    sample = read_sample(bundle, plan.patch)
    if sample is None:
        return Verdict("int8 is not used: the bundle has no sample")
    tiles = [torch.from_numpy(_normalised(hu, plan)) for hu in sample.hu]
    gain, plain = 0.0, ""
    sums: dict[str, Logits] = {"fp32": [], "int8": []}
    every_range = []
    for fold in bundle.folds:
        network = load_fold(bundle, plan, fold)
        patch = plan.patch[1:] if plan.flat else plan.patch
        ranges, exact = openvino_net.measured(
            network.state_dict(),
            plan.architecture,
            patch,
            (tile.numpy().reshape(1, 1, *patch) for tile in tiles),
        )
        every_range.append(ranges)
        rounded = _networks(network, bundle, plan, (ranges,))
        if not gain:
            gain, plain = _gain(_networks(network, bundle, plan, ()), rounded, tiles[0])
            if gain < 1 / MOST_TIME:
                return Verdict(f"int8 is not used: {gain:.2f} times as fast as {plain} here")
        _add(sums["fp32"], (each.reshape(-1, *plan.patch) for each in exact))
        _add(sums["int8"], (each.numpy() for each in rounded.passes(0, tiles)))
    labels = {name: np.stack([each.argmax(0) for each in own]) for name, own in sums.items()}
    dsc, fault = _compared(labels["fp32"], labels["int8"], sample, bundle)
    if fault:
        return Verdict(f"int8 is not used: {fault}")
    listed = ", ".join(f"{organ} {value:.3f}" for organ, value in dsc.items())
    return Verdict(
        f"int8 is used: {gain:.2f} times as fast as {plain} here, DSC to fp32 {listed}",
        tuple(every_range),
    )


def _networks(
    network: torch.nn.Module, bundle: Bundle, plan: Plan, ranges: tuple[Ranges, ...]
) -> OpenVinoNetworks:
    streams = most_streams(bundle, plan)
    return OpenVinoNetworks([network], plan, half=True, ranges=ranges, most_streams=streams)


def _gain(
    plain: OpenVinoNetworks, rounded: OpenVinoNetworks, tile: torch.Tensor
) -> tuple[float, str]:
    """How many times as fast int8 is, and the name of what it is compared with."""
    tiles = [tile] * plain.at_once
    seconds: dict[str, list[float]] = {"plain": [], "int8": []}
    # The first passes warm up. They take turns, because other programs share these cores.
    for _ in range(1 + TIMED_PASSES):
        for name, networks in (("plain", plain), ("int8", rounded)):
            started = time.perf_counter()
            for _ in networks.passes(0, tiles):
                pass
            seconds[name].append(time.perf_counter() - started)
    ratio = median(seconds["plain"][1:]) / median(seconds["int8"][1:])
    return ratio, plain.description.rpartition(" ")[2]


def _add(total: Logits, logits: Iterable[npt.NDArray[np.float32]]) -> None:
    """Add the probabilities of one fold; each tile's logits are used before the next is taken."""
    for k, each in enumerate(logits):
        share = torch.softmax(torch.from_numpy(each), dim=0).numpy()
        if k < len(total):
            total[k] += share
        else:
            total.append(share)


def _compared(
    exact: npt.NDArray[np.intp], rounded: npt.NDArray[np.intp], sample: Sample, bundle: Bundle
) -> tuple[dict[str, float], str]:
    """Each organ's DSC between two labellings, and why the second can't be taken, or ""."""
    found: dict[str, float] = {}
    for label, organ in bundle.organs.items():
        ours, theirs, truth = rounded == label, exact == label, sample.truth == label
        if theirs.sum() < LEAST_VOXELS:
            return found, f"fp32 finds no {organ} in the bundle's sample to compare with"
        found[organ] = _dsc(ours, theirs)
        if found[organ] < LEAST_DSC:
            return found, f"{organ}'s DSC to fp32 is {found[organ]:.3f}, {LEAST_DSC} expected"
        lost = _dsc(theirs, truth) - _dsc(ours, truth) if truth.any() else 0.0
        if lost > MOST_LOST:
            return found, f"{organ}'s DSC to the truth falls by {lost:.4f}, at most {MOST_LOST}"
    return found, ""


def _dsc(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    return 2.0 * int((one & other).sum()) / max(1, int(one.sum()) + int(other.sum()))


def _normalised(hu: npt.NDArray[np.int16], plan: Plan) -> npt.NDArray[np.float32]:
    """nnU-Net's CTNormalization."""
    clipped = np.clip(hu.astype(np.float32), plan.low, plan.high)
    return np.asarray((clipped - plan.mean) / plan.std, dtype=np.float32)


def _user_cache() -> list[Path]:
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        base = Path(named) if named else Path.home() / ".cache"
        (base / "limn").mkdir(parents=True, exist_ok=True)
    except (RuntimeError, OSError):
        return []
    return [base / "limn" / "int8"]


def _file_name(bundle: Bundle) -> str:
    """One for each bundle and processor."""
    processor = hashlib.sha256(openvino_net.processor().encode()).hexdigest()
    return f"{bundle.sha256[:16]}-{processor[:16]}-v{VERSION}.json"


def _subject(bundle: Bundle) -> dict[str, Any]:
    """What a verdict holds for."""
    return {
        "quantisation": VERSION,
        "bundle": bundle.sha256,
        "processor": openvino_net.processor(),
        "openvino": openvino_net.VERSION,
    }


def _keep(verdict: Verdict, bundle: Bundle, paths: Sequence[Path]) -> bool:
    """Write the verdict into every folder that takes it; whether any did."""
    ranges = [{name: list(span) for name, span in own.items()} for own in verdict.ranges]
    content = json.dumps(_subject(bundle) | {"reason": verdict.reason, "ranges": ranges}).encode()
    whole = hashlib.sha256(content).hexdigest().encode() + b"\n" + content + b"\n"
    written = False
    for path in paths:
        # Every account runs what was installed; all else is its owner's alone (D-138).
        shared = path.parent.name == BESIDE_BUNDLES
        try:
            path.parent.mkdir(0o755 if shared else 0o700, exist_ok=True)
            write_durably(path, whole, 0o644 if shared else OWNER_ONLY_FILE)
            written = True
        except OSError:
            continue
    return written


def _read(path: Path, bundle: Bundle) -> Verdict | None:
    """A verdict that was kept; None if it is missing, damaged, or of anything else."""
    try:
        if _of_others(path.stat()):
            return None
        digest, _, content = path.read_bytes().partition(b"\n")
        if hashlib.sha256(content.rstrip(b"\n")).hexdigest().encode() != digest:
            return None
        kept = json.loads(content)
        if {key: kept[key] for key in _subject(bundle)} != _subject(bundle):
            return None
        ranges = tuple(_ranges(own) for own in kept["ranges"])
        if len(ranges) not in (0, len(bundle.folds)):
            return None
        return Verdict(str(kept["reason"]), ranges)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _ranges(kept: Mapping[str, Sequence[float]]) -> Ranges:
    ranges = {str(name): (float(low), float(high)) for name, (low, high) in kept.items()}
    if not all(-math.inf < low <= 0.0 < high < math.inf for low, high in ranges.values()):
        raise ValueError("no range of a convolution's input")
    return ranges


def _of_others(status: os.stat_result) -> bool:
    """Whether another account than root's and this one's may have written a file."""
    if os.name == "nt":
        return False
    mine = psutil.Process().uids().effective
    return status.st_uid not in (0, mine) or bool(status.st_mode & 0o022)
