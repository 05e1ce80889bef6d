"""The settings of a run: of its work folder, of a person, and steps by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from limn.domain.errors import ConfigWrong
from limn.domain.scan import Organ
from limn.lab.adapt.cases import make_cases, sites_and_phantoms
from limn.lab.adapt.fold import CASES, phantom_seeds, watched
from limn.lab.adapt.patches import draw_learning_patch, marginal_loss
from limn.lab.adapt.settings import AdaptSettings, kept_settings, steps_for
from limn.lab.adapt.site_scans import SiteData, SiteScan
from limn.lab.adapt.start import Start, learning_network
from limn.segment.engine.half import autocast

TIMED_STEPS = 3
# Of a step's time, what the looks add.
LOOKING = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptOptions:
    """What a person chooses; None leaves it to limn.

    Attributes
    ----------
    organs : to learn; by default all that are contoured
    name : of the new bundle
    hours : for all of it; `steps` of each fold go before it
    workers : folds that learn at a time
    """

    organs: tuple[Organ, ...] | None = None
    name: str | None = None
    hours: float = 8.0
    steps: int | None = None
    phantoms: int | None = None
    scored: int | None = None
    workers: int | None = None


def chosen_settings(
    work: Path,
    start: Start,
    site: SiteData,
    options: AdaptOptions,
    workers: int,
    report: Callable[[str], None],
) -> AdaptSettings:
    """Those of the work folder, if the options do not say otherwise; new ones by the clock."""
    kept = kept_settings(work) or {}
    plain = AdaptSettings(steps=0)
    values = {own.name: kept.get(own.name, getattr(plain, own.name)) for own in fields(plain)}
    numbers = {
        "steps": options.steps,
        "phantoms": options.phantoms,
        "phantoms_scored": options.scored,
    }
    for name, number in numbers.items():
        if number is not None and number < 1:
            msg = f"{name.replace('_', ' ')}: {number}, 1 or more expected"
            raise ConfigWrong(msg)
        values[name] = values[name] if number is None else number
    if not values["steps"]:
        step_s = _timed(work, start, site, AdaptSettings(**values), workers, report)
        values["steps"] = steps_for(options.hours, step_s, len(start.bundle.folds), workers)
    return AdaptSettings(**values)


def _timed(
    work: Path,
    start: Start,
    site: SiteData,
    settings: AdaptSettings,
    workers: int,
    report: Callable[[str], None],
) -> float:
    """Seconds of a step, with the first cases of this run."""
    scans = watched(site.teaching)[:2]
    seeds = phantom_seeds(settings)[0][:1]
    make_cases(scans, seeds, start, work / CASES, workers, report)
    step_s = seconds_a_step(start, work, scans, seeds)
    report(f"a step takes {step_s:.1f} s here")
    return step_s


def seconds_a_step(
    start: Start, work: Path, scans: Sequence[SiteScan], seeds: Sequence[int]
) -> float:
    """How long a step takes on this computer, with its share of the looks."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = learning_network(start, start.bundle.folds[0]).to(device)
    cases, phantoms = sites_and_phantoms(scans, seeds, work / CASES)
    times = []
    for step in range(TIMED_STEPS):
        before = time.monotonic()
        rng = np.random.default_rng([0, step])
        patch = draw_learning_patch(rng, cases, phantoms, 0.5, start.plan, start.spacing_mm)
        with autocast(device):
            outputs = network(torch.from_numpy(patch.image[None, None]).to(device))
        target = torch.from_numpy(patch.classes[None]).to(device)
        marginal_loss(outputs, target, patch.known).backward()
        times.append(time.monotonic() - before)
    # The first is slower: memory is taken and kernels are chosen.
    return LOOKING * float(np.median(times[1:]))
