"""Trains one fold on: looks at its left-out animals now and then, and keeps the best weights.

Each step draws from its own number, and the looks are kept: a killed fold goes on from its last
look and ends with the same weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from limn.domain.files import replacement
from limn.lab.adapt.cases import (
    FIRST_SEED,
    FIRST_WATCHED,
    LearningCase,
    sites_and_phantoms,
)
from limn.lab.adapt.patches import draw_learning_patch, marginal_loss
from limn.lab.adapt.settings import AdaptSettings
from limn.lab.adapt.site_scans import SiteScan
from limn.lab.adapt.start import Start, learning_network
from limn.lab.adapt.watch import Look, Looks, look_at
from limn.lab.train.loop import LoopSettings, LossTable, TrainingLoop
from limn.lab.train.nnunet_folder import Weights
from limn.segment.engine.half import autocast

# A left-out animal's scans that are looked at; all of its days say little more.
WATCHED_SCANS = 2
CASES = "cases"


@dataclass(frozen=True, slots=True, eq=False)
class FoldJob:
    """One fold of the bundle that goes on.

    Attributes
    ----------
    number : of the fold in the bundle that it starts from
    learning, left_out : scans; no animal is in both
    rounds_after : how many folds this process trains after it, for the expected end
    belongs_to : settings and sources; a checkpoint of others is refused
    """

    number: int
    start: Start
    learning: tuple[SiteScan, ...]
    left_out: tuple[SiteScan, ...]
    settings: AdaptSettings
    work: Path
    threads: int
    rounds_after: int
    belongs_to: dict[str, Any]

    @property
    def best_weights(self) -> Path:
        """The file of the weights of the best look."""
        return self.work / f"fold_{self.number}_best.pt"

    @property
    def looks(self) -> Looks:
        """What was seen so far."""
        return Looks.read(self.work / f"fold_{self.number}_looks.jsonl")

    @property
    def is_done(self) -> bool:
        """Whether it needs no more steps."""
        return self.looks.ended(self.settings.steps, self.settings.patience)


def phantom_seeds(settings: AdaptSettings) -> tuple[list[int], list[int]]:
    """Seeds of the phantoms that teach, and of those that are watched."""
    return (
        [FIRST_SEED + k for k in range(settings.phantoms)],
        [FIRST_WATCHED + k for k in range(settings.phantoms_watched)],
    )


def watched(scans: Sequence[SiteScan]) -> list[SiteScan]:
    """The first and the last scan of each animal."""
    chosen = []
    for animal in dict.fromkeys(scan.animal for scan in scans):
        own = [scan for scan in scans if scan.animal == animal]
        picks = np.linspace(0, len(own) - 1, min(WATCHED_SCANS, len(own)))
        chosen += [own[int(pick)] for pick in picks]
    return chosen


def train_fold(job: FoldJob, report: Callable[[str], None]) -> int:
    """Train a fold until it has learnt enough; its best weights are on disk then.

    Returns
    -------
    The fold's number.
    """
    torch.set_num_threads(job.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = learning_network(job.start, job.number).to(device)
    learning, phantoms = sites_and_phantoms(
        job.learning, phantom_seeds(job.settings)[0], job.work / CASES
    )
    trainer = _FoldTrainer(job, network, learning, phantoms, report)
    looks = job.looks
    for step in job.settings.looks:
        if looks.ended(job.settings.steps, job.settings.patience):
            break
        if step in {look.step for look in looks.taken}:
            continue
        weights = trainer.learn_until(step)
        look = trainer.look(weights, step)
        looks = trainer.kept(looks, look, weights)
    return job.number


class _FoldTrainer:
    """The network of a fold between two looks."""

    def __init__(
        self,
        job: FoldJob,
        network: nn.Module,
        learning: Sequence[LearningCase],
        phantoms: Sequence[LearningCase],
        report: Callable[[str], None],
    ) -> None:
        self._job, self._network, self._report = job, network, report
        self._learning, self._phantoms = learning, phantoms
        self._device = next(network.parameters()).device
        settings = job.settings
        self._optimizer = torch.optim.AdamW(
            network.parameters(), settings.learning_rate, weight_decay=1e-3
        )

        def rate(step: int) -> float:
            rising = (step + 1) / settings.warm_up_steps
            return float(min(rising, max(0.0, 1 - step / settings.steps) ** 0.9))

        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, rate)
        self._watched = watched(job.left_out)
        self._started = time.monotonic()
        self._from: int | None = None

    def learn_until(self, step: int) -> Weights:
        """Learn until so many steps are done; their averaged weights."""
        job = self._job
        name = f"fold {job.number}"
        settings = LoopSettings(
            name=name,
            steps=step,
            checkpoint=job.work / f"fold_{job.number}.pt",
            losses=LossTable(job.work / f"fold_{job.number}_loss.csv", name),
            clip=12.0,
            average=job.settings.average,
            smoothing=0.9,
            belongs_to=job.belongs_to,
        )
        loop = TrainingLoop(settings, self._network, self._optimizer, self._schedule)
        if self._from is None:
            self._from = loop.first
        return loop.run(self._loss_of, lambda line: None)

    def _loss_of(self, step: int) -> torch.Tensor:
        job = self._job
        rng = np.random.default_rng([job.number, step])
        patch = draw_learning_patch(
            rng,
            self._learning,
            self._phantoms,
            job.settings.site_share,
            job.start.plan,
            job.start.spacing_mm,
        )
        image = torch.from_numpy(patch.image[None, None]).to(self._device)
        target = torch.from_numpy(patch.classes[None]).to(self._device)
        with autocast(self._device):
            outputs = self._network(image)
        return marginal_loss(outputs, target, patch.known)

    def look(self, weights: Weights, step: int) -> Look:
        """See what these weights reach; the network learns on with its own."""
        job = self._job
        own = {name: tensor.clone() for name, tensor in self._network.state_dict().items()}
        self._network.load_state_dict(weights)
        left_out, phantoms = sites_and_phantoms(
            self._watched, phantom_seeds(job.settings)[1], job.work / CASES
        )
        animals = [scan.animal for scan in self._watched]
        look = look_at(
            self._network,
            step,
            list(zip(animals, left_out, strict=True)),
            phantoms,
            list(job.start.organs.values()),
            list(job.start.bundle.organs.values()),
            job.start.plan,
        )
        self._network.load_state_dict(own)
        return look

    def kept(self, looks: Looks, look: Look, weights: Weights) -> Looks:
        """Keep a look, and the weights if it is the best; say how far the fold is."""
        more = Looks(looks.path, (*looks.taken, look))
        if more.best is look:
            with replacement(self._job.best_weights) as part:
                torch.save({name: own.cpu() for name, own in weights.items()}, part)
        more = looks.with_look(look)
        self._report(self._progress(more))
        return more

    def _progress(self, looks: Looks) -> str:
        job, look, best = self._job, looks.taken[-1], looks.best
        first = looks.taken[0]
        line = (
            f"fold {job.number} step {look.step}/{job.settings.steps}: left-out animals "
            f"{_mean(look.site):.3f}, phantoms {_mean(look.phantoms):.3f}; best after step "
            f"{best.step} ({_mean(first.site):.3f} to {_mean(best.site):.3f})"
        )
        done = look.step - (self._from or 0)
        if done <= 0:
            return line
        a_step = (time.monotonic() - self._started) / done
        left = job.settings.steps - look.step + job.rounds_after * job.settings.steps
        end = datetime.now().astimezone() + timedelta(seconds=a_step * left)
        return f"{line}; all folds end at the latest {end:%a %H:%M}"


def _mean(dscs: dict[Any, float] | Any) -> float:
    return float(np.mean(list(dscs.values()))) if dscs else float("nan")
