"""Looks at what a fold left out, and at phantoms: is it better, and what is forgotten."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import nn

from limn.domain.files import write_durably
from limn.domain.scan import Organ
from limn.lab.adapt.cases import HALF, LearningCase
from limn.lab.adapt.patches import normalised
from limn.segment.engine.half import autocast
from limn.segment.engine.plans import Plan

# A mean DSC may fall by so much on phantoms before it counts as forgotten.
MOST_FORGOTTEN = 0.005
# What is forgotten beyond that counts so many times as much as what the left-out animals gain.
PRICE = 4.0
# A look is better by at least so much.
LEAST_GAIN = 0.0005
MOST_TILES = 8


@dataclass(frozen=True, slots=True)
class Look:
    """What a fold's averaged weights reach after some steps.

    Attributes
    ----------
    site : mean DSC of each organ over the left-out animals; of known organs alone
    phantoms : the same over the phantoms that are watched
    """

    step: int
    site: Mapping[Organ, float]
    phantoms: Mapping[Organ, float]

    @property
    def mean(self) -> float:
        """Mean DSC of the organs on the left-out animals; 0 if none is known."""
        return float(np.mean(list(self.site.values()))) if self.site else 0.0

    def score(self, first: Look) -> float:
        """How good it is: the organs' mean over left-out animals, less the price of forgetting."""
        fall = max(
            (first.phantoms[organ] - dsc for organ, dsc in self.phantoms.items()), default=0.0
        )
        return self.mean - PRICE * max(0.0, fall - MOST_FORGOTTEN)


@dataclass(frozen=True, slots=True)
class Looks:
    """All looks of a fold, kept beside its checkpoint."""

    path: Path
    taken: tuple[Look, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Looks:
        """Those of an earlier run; none if there was none."""
        if not path.exists():
            return cls(path)
        lines = path.read_text(encoding="utf-8").splitlines()
        return cls(path, tuple(Look(**json.loads(line)) for line in lines))

    def with_look(self, look: Look) -> Looks:
        """With one more, on disk too."""
        more = Looks(self.path, (*self.taken, look))
        lines = [
            json.dumps({"step": own.step, "site": own.site, "phantoms": own.phantoms})
            for own in more.taken
        ]
        write_durably(self.path, ("\n".join(lines) + "\n").encode())
        return more

    @property
    def best(self) -> Look:
        """The first look than which none is better by `LEAST_GAIN`."""
        best = self.taken[0]
        for look in self.taken[1:]:
            if look.score(self.taken[0]) > best.score(self.taken[0]) + LEAST_GAIN:
                best = look
        return best

    def ended(self, last_step: int, patience: int) -> bool:
        """Whether the fold has learnt enough: all its steps, or nothing gained for long.

        Only what the left-out animals gain counts, and not before half of the steps: what is
        forgotten at first comes back while the steps become smaller.
        """
        if not self.taken or self.taken[-1].step < last_step / 2:
            return False
        top = self.taken[0]
        for look in self.taken[1:]:
            if look.mean > top.mean + LEAST_GAIN:
                top = look
        later = sum(look.step > top.step for look in self.taken)
        return self.taken[-1].step >= last_step or later >= patience


def look_at(
    network: nn.Module,
    step: int,
    site: Sequence[tuple[str, LearningCase]],
    phantoms: Sequence[LearningCase],
    organs: Sequence[Organ],
    old: Sequence[Organ],
    plan: Plan,
) -> Look:
    """Label all cases, and compare with what is known of them.

    Parameters
    ----------
    site : animal and case
    old : the organs that the bundle knew: only these can be forgotten
    """
    by_animal: dict[Organ, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for animal, case in site:
        for organ, dsc in case_dsc(network, case, organs, plan).items():
            by_animal[organ][animal].append(dsc)
    found: dict[Organ, list[float]] = defaultdict(list)
    for case in phantoms:
        for organ, dsc in case_dsc(network, case, organs, plan).items():
            found[organ].append(dsc)
    return Look(
        step,
        {
            organ: float(np.mean([np.mean(own) for own in animals.values()]))
            for organ, animals in by_animal.items()
        },
        {organ: float(np.mean(own)) for organ, own in found.items() if organ in old},
    )


def case_dsc(
    network: nn.Module, case: LearningCase, organs: Sequence[Organ], plan: Plan
) -> dict[Organ, float]:
    """DSC of each known organ in the tiles that cover the case's organs."""
    device = next(network.parameters()).device
    shared, sizes = np.zeros(len(organs)), np.zeros(len(organs))
    for low in tile_corners(case, plan.patch):
        where = tuple(slice(a, a + n) for a, n in zip(low, plan.patch, strict=True))
        image = torch.from_numpy(normalised(case.hu[where].astype(np.float32), plan))[None, None]
        with torch.inference_mode(), autocast(device):
            output = network(image.to(device))
        finest = output[0] if isinstance(output, (list, tuple)) else output
        won = finest[0].argmax(0).cpu().numpy()
        for k in range(len(organs)):
            ours, truth = won == k + 1, case.shares[k][where] >= HALF
            shared[k] += 2.0 * np.count_nonzero(ours & truth)
            sizes[k] += np.count_nonzero(ours) + np.count_nonzero(truth)
    return {
        organ: float(shared[k] / sizes[k])
        for k, organ in enumerate(organs)
        if case.known[k] and len(case.points[k]) and sizes[k]
    }


def tile_corners(case: LearningCase, patch: Sequence[int]) -> list[tuple[int, ...]]:
    """First voxels of the fewest tiles that cover the organs, at most `MOST_TILES`."""
    along = []
    for span, n, size in zip(case.box, patch, case.hu.shape, strict=True):
        length = span.stop - span.start
        if length <= n:
            starts = [span.start + length / 2 - n / 2]
        else:
            starts = list(np.linspace(span.start, span.stop - n, math.ceil(length / n)))
        along.append([int(np.clip(round(start), 0, size - n)) for start in starts])
    corners = list(product(*along))
    return corners[:: math.ceil(len(corners) / MOST_TILES)]
