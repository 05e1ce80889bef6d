"""A training loop that goes on from its checkpoint: weights, their average, losses, reports."""

from __future__ import annotations

import csv
import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limn.domain.errors import ConfigWrong, StageFailed
from limn.domain.files import replacement

REPORTED_EVERY = 50
# A killed training loses at most so many steps.
SAVED_EVERY = 200


@dataclass(frozen=True, slots=True)
class LossTable:
    """The reported losses as CSV: step and loss.

    Attributes
    ----------
    name : of the training; with one, the columns are name, step, loss and seconds
    """

    path: Path
    name: str = ""

    def add(self, step: int, loss: float, elapsed_s: float) -> None:
        """One row."""
        row: list[object] = [step, f"{loss:.4f}"]
        if self.name:
            row = [self.name, *row, f"{elapsed_s:.1f}"]
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(row)

    def drop_after(self, step: int) -> None:
        """Drop rows that a killed run added after its last checkpoint: their steps are redone."""
        if not self.path.exists():
            return
        column = 1 if self.name else 0
        rows = list(csv.reader(self.path.read_text(encoding="utf-8").splitlines()))
        with replacement(self.path) as part, part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(row for row in rows if row and int(row[column]) <= step)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """How long a network learns, and what is kept of it.

    Attributes
    ----------
    name : in reports, such as "fold 3"
    checkpoint : the file from which a killed training goes on
    clip : largest norm of the gradients
    average : how much of itself the average of the weights keeps at each step; None for no average
    smoothing : the same for the reported loss; None reports the mean since the last report
    belongs_to : settings and data of this training; a checkpoint of others is refused
    """

    name: str
    steps: int
    checkpoint: Path
    losses: LossTable | None = None
    clip: float
    average: float | None = None
    smoothing: float | None = None
    belongs_to: Mapping[str, Any] = field(default_factory=dict)


class TrainingLoop:
    """Trains a network step by step, from its checkpoint if there is one.

    Attributes
    ----------
    first : number of the step to begin with, from 0

    Raises
    ------
    ConfigWrong
        If the checkpoint belongs to other settings or data.
    """

    def __init__(
        self,
        settings: LoopSettings,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> None:
        self._settings, self._network = settings, network
        self._optimizer, self._schedule = optimizer, schedule
        self._averaged: dict[str, torch.Tensor] | None = None
        if settings.average is not None:
            self._averaged = {name: own.clone() for name, own in network.state_dict().items()}
        self.first, self._loss = 0, 0.0
        if settings.checkpoint.exists():
            self._resume()
        if settings.losses is not None:
            settings.losses.drop_after(self.first)

    def run(
        self, loss_of: Callable[[int], torch.Tensor], report: Callable[[str], None]
    ) -> dict[str, torch.Tensor]:
        """Do the steps that are left.

        Parameters
        ----------
        loss_of : draws a batch and passes it through the network; takes the step's number

        Returns
        -------
        The weights after the last step; their average if the settings ask for one.

        Raises
        ------
        StageFailed
            If this runs in a child process whose parent has ended.
        """
        own, started = self._settings, time.monotonic()
        parent = multiprocessing.parent_process()
        for step in range(self.first, own.steps):
            if parent is not None and not parent.is_alive():
                raise StageFailed("the command that started this training has ended")
            self._learn(step, loss_of(step))
            done = step + 1
            if done % REPORTED_EVERY == 0 or done == own.steps:
                elapsed_s = time.monotonic() - started
                left_s = elapsed_s / (done - self.first) * (own.steps - done)
                if own.losses is not None:
                    own.losses.add(done, self._loss, elapsed_s)
                report(
                    f"{own.name} step {done}/{own.steps} loss {self._loss:.3f} "
                    f"{elapsed_s:.0f} s, {left_s:.0f} s left"
                )
            if done % SAVED_EVERY == 0 or done == own.steps:
                self._save(done)
        return self._network.state_dict() if self._averaged is None else self._averaged

    def _learn(self, step: int, loss: torch.Tensor) -> None:
        own = self._settings
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._network.parameters(), own.clip)
        self._optimizer.step()
        self._schedule.step()
        if own.average is not None and self._averaged is not None:
            # The average follows faster at first, for it starts from untrained weights.
            share = 1.0 - min(own.average, (step + 1) / (step + 10))
            for name, tensor in self._network.state_dict().items():
                self._averaged[name].lerp_(tensor, share)
        if own.smoothing is None:
            share = 1.0 / (step % REPORTED_EVERY + 1)
        else:
            share = 1.0 - own.smoothing if step else 1.0
        self._loss += share * (loss.item() - self._loss)

    def _save(self, done: int) -> None:
        kept = {
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "averaged": self._averaged,
            "step": done,
            "loss": self._loss,
            "begun": dict(self._settings.belongs_to),
        }
        with replacement(self._settings.checkpoint) as part:
            torch.save(kept, part)

    def _resume(self) -> None:
        path = self._settings.checkpoint
        kept = torch.load(path, map_location="cpu", weights_only=True)
        if kept.get("begun", {}) != self._settings.belongs_to:
            msg = f"{path.parent} belongs to other settings or scans; give another, or delete it"
            raise ConfigWrong(msg)
        # In older checkpoints the onlooker's weights have another name, and AIMOS has no schedule.
        self._network.load_state_dict(kept.get("network", kept.get("onlooker")))
        self._optimizer.load_state_dict(kept["optimizer"])
        if "schedule" in kept:
            self._schedule.load_state_dict(kept["schedule"])
        else:
            # PyTorch warns unless the optimizer steps first; without gradients that does nothing.
            self._optimizer.step()
            self._schedule.last_epoch = kept["step"] - 1
            self._schedule.step()
        if self._averaged is not None:
            for name, tensor in kept["averaged"].items():
                self._averaged[name].copy_(tensor)
        self.first, self._loss = kept["step"], kept.get("loss", 0.0)
