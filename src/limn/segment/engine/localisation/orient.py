"""Finds in the image how the animal lies; the header is only a prior.

Headers may be wrong: scanners write a supine animal as prone or a tail-first one as head-first,
and some turn or mirror the array. Sixteen ways to lie are distinguished: the animal's head at
either end, its back in any of four directions, and each of these mirrored. A small network scores
a coarse picture of the animal, turned each way, by how much it looks like a mouse that lies
straight; the way with the best score wins. A proper turn is undone before the ensemble gets the
scan, so that the left lung is on the animal's own left. No turn explains a mirror image; it is
contoured like the others, but a person must check it (`Lie.mirrored`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from limn.domain.geometry import Reorientation, axial_grid
from limn.domain.scan import Labels, Role, Volume, by_role
from limn.segment.engine.localisation.coarse import COARSE_MM, dense
from limn.segment.engine.weights import with_weights

# First and last of a box along the axes of an array, as shares of its length.
Shares: TypeAlias = tuple[tuple[float, float], ...]

# What the ensemble's array axes z, y, x grow towards.
STRAIGHT = "SPL"
WAYS = tuple(
    head + across
    for head, across in product("SI", ("PL", "AR", "PR", "AL", "LP", "RA", "LA", "RP"))
)
# The onlooker was trained on scans of up to 40 mm. A longer scan is split into stretches that
# hold little more than a chest.
LONGEST_MM = 42.0
STRETCH_MM = 27.0
STRIDE_MM = 6.7
# More ways at once don't fit into a processor's cache: all sixteen took twice as long as pairs.
WAYS_AT_ONCE = 2
# The network's strides need this many.
FEWEST_SLICES = 16
# Prior probabilities that the header is wrong by a turn, or by a mirror image.
PRIOR_TURNED = 0.02
PRIOR_MIRRORED = 0.004
# Below this the header is believed.
CERTAIN = 0.9

# The cord runs 5-9 mm behind the heart's middle; less than this contradicts the way to lie.
MIN_BEHIND_MM = 1.5
MIN_RIGHT_SHARE = 0.48


@dataclass(frozen=True, slots=True)
class Lie:
    """How the animal lies in the array.

    Attributes
    ----------
    letters : what the array axes z, y, x grow towards in the animal itself, after the volume
        was turned to S, P, L by its header; "SPL" if the header is right
    probability : of this way, by the image and the prior
    hand_nats : how much more the image looks like this way than like the best of those of the
        other hand, without the prior; 0 if nothing is known
    """

    letters: str
    probability: float
    hand_nats: float = 0.0

    @property
    def as_in_header(self) -> bool:
        """Whether the animal lies as the header says."""
        return self.letters == STRAIGHT

    @property
    def mirrored(self) -> bool:
        """Whether it is a mirror image, which no turn of the animal explains."""
        return _parity(self.letters) < 0

    @property
    def certain(self) -> bool:
        """Whether the image leaves no doubt."""
        return self.probability >= CERTAIN

    def mirror_image(self, probability: float) -> Lie:
        """The same with left and right exchanged."""
        letters = self.letters.translate(str.maketrans("LR", "RL"))
        return Lie(letters, probability, -self.hand_nats)

    @property
    def words(self) -> str:
        """The turn in words."""
        turned = f"array axes grow towards the animal's {self.letters}, not {STRAIGHT}"
        return f"{_TURNS[self.letters]} ({turned})" if self.letters in _TURNS else turned

    def straighten(self, volume: Volume) -> Volume:
        """The scan with the animal's own S, P, L along its axes; a view.

        Its grid is the animal's, not the scanner's: only its distances are valid.
        """
        turn, own = self._turns(volume.grid.axis_letters)
        array = own.apply(turn.apply(volume.hu_zyx))
        spacing = own.spacing(turn.spacing(volume.grid.spacing_mm))
        return Volume(array, axial_grid(_shape(array), spacing, np.zeros(3)))

    def straightened(
        self, array_zyx: npt.NDArray[np.uint8], header_letters: str
    ) -> npt.NDArray[np.uint8]:
        """An array on the scan's voxels with the animal's own S, P, L along its axes; a view."""
        turn, own = self._turns(header_letters)
        return own.apply(turn.apply(array_zyx))

    def turned_shares(self, shares: Shares, volume: Volume) -> Shares:
        """Spans along the volume's axes as spans along those of the straightened scan."""
        turn, own = self._turns(volume.grid.axis_letters)
        return turned(own, turned(turn, shares))

    def back(self, labels: Labels, volume: Volume) -> Labels:
        """Labels of the straightened scan on the voxels of the volume itself."""
        return labels.on_voxels(self.turned_back(labels.labels_zyx, volume), volume.grid)

    def turned_back(
        self, array_zyx: npt.NDArray[np.uint8], volume: Volume
    ) -> npt.NDArray[np.uint8]:
        """An array of the straightened scan on the voxels of the volume itself."""
        turn, own = self._turns(volume.grid.axis_letters)
        return np.ascontiguousarray(turn.undo(own.undo(array_zyx)))

    def _turns(self, header_letters: str) -> tuple[Reorientation, Reorientation]:
        return (
            Reorientation.between(header_letters, STRAIGHT),
            Reorientation.between(self.letters, STRAIGHT),
        )


def turned(turn: Reorientation, shares: Shares) -> Shares:
    """Spans along the axes of an array as spans along those of the turned array."""
    return tuple(
        (1.0 - shares[axis][1], 1.0 - shares[axis][0]) if flip else shares[axis]
        for axis, flip in zip(turn.axes, turn.flipped, strict=True)
    )


_TURNS = {
    "IPR": "turned by 180 degrees about the back-belly axis",
    "IAL": "turned by 180 degrees about the left-right axis",
    "SAR": "turned by 180 degrees about the head-tail axis",
}
AS_IN_HEADER = Lie(STRAIGHT, 1.0)


class Onlooker(nn.Module):
    """Scores how much a coarse picture looks like a mouse that lies straight."""

    def __init__(self, channels: tuple[int, ...] = (12, 24, 48, 64)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for i, after in enumerate(channels):
            stride = 1 if i == 0 else 2
            layers += [
                nn.Conv3d(before, after, 3, stride, padding=1),
                nn.InstanceNorm3d(after, affine=True),
                nn.LeakyReLU(inplace=True),
            ]
            before = after
        self.features = nn.Sequential(*layers)
        self.mixed = nn.Sequential(
            nn.Conv3d(before, before, 3, padding=1), nn.LeakyReLU(inplace=True)
        )
        self.score = nn.Linear(2 * before, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Scores of (n, 1, z, y, x) pictures: (n,)."""
        mixed = self.mixed(self.features(image))
        pooled = torch.cat([mixed.mean((2, 3, 4)), mixed.amax((2, 3, 4))], dim=1)
        score: torch.Tensor = self.score(pooled)[:, 0]
        return score


class Finder:
    """Finds how an animal lies, by an onlooker with its weights."""

    def __init__(self, onlooker: Onlooker) -> None:
        self.onlooker = onlooker.eval()

    @classmethod
    def load(cls, weights: Path) -> Finder:
        """Open the weights of a verified bundle."""
        return cls(with_weights(Onlooker(), weights))

    def find(self, whole: npt.NDArray[np.float32], chest: slice | None = None) -> Lie:
        """How the animal lies; as the header says unless the image is certain.

        Parameters
        ----------
        whole, chest : see `coarse_pictures`
        """
        scored = [self.scores(picture) for picture in coarse_pictures(whole, chest)]
        # In a long scan the chest decides, because it has the highest scores.
        scores = max(scored, key=lambda scores: float(scores.max()))
        probability = posterior(scores)
        best = int(np.argmax(probability))
        if WAYS[best] != STRAIGHT and probability[best] < CERTAIN:
            best = WAYS.index(STRAIGHT)
        return Lie(WAYS[best], float(probability[best]), _hand_nats(scores, WAYS[best]))

    def scores(self, picture: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Scores of every way in `WAYS`."""
        ways = torch.from_numpy(np.stack(turned_all_ways(picture))[:, None])
        with torch.inference_mode():
            scored = [self.onlooker(some) for some in ways.split(WAYS_AT_ONCE)]
        return np.asarray(torch.cat(scored).double().numpy())


def posterior(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Probability of every way in `WAYS`, by the image's scores and the prior."""
    proper = sum(_parity(way) > 0 for way in WAYS)
    prior = np.array(
        [
            1.0 - PRIOR_TURNED - PRIOR_MIRRORED
            if way == STRAIGHT
            else PRIOR_TURNED / (proper - 1)
            if _parity(way) > 0
            else PRIOR_MIRRORED / (len(WAYS) - proper)
            for way in WAYS
        ]
    )
    weighted = np.log(prior) + scores
    likely = np.exp(weighted - weighted.max())
    return np.asarray(likely / likely.sum())


def _hand_nats(scores: npt.NDArray[np.float64], way: str) -> float:
    """By how much a way's score is above the best of the ways of the other hand."""
    others = [
        float(score)
        for other, score in zip(WAYS, scores, strict=True)
        if _parity(other) != _parity(way)
    ]
    return float(scores[WAYS.index(way)]) - max(others)


def coarse_pictures(
    whole: npt.NDArray[np.float32], chest: slice | None = None
) -> list[npt.NDArray[np.float32]]:
    """The animal, coarse and square in cross-section: (z, y, x) float32, air 0, water 1.

    A scan longer than those of the onlooker's training is cut to the stretch around the chest, or
    split into overlapping stretches.

    Parameters
    ----------
    whole : (z, y, x) HU with axes S, P, L on voxels of `COARSE_MM`
    chest : its slices, where they are known
    """
    if len(whole) < FEWEST_SLICES:
        whole = np.pad(whole, ((0, FEWEST_SLICES - len(whole)), (0, 0), (0, 0)), mode="edge")
    if len(whole) * COARSE_MM <= LONGEST_MM:
        return [squared(dense(whole))]
    length, stride = round(STRETCH_MM / COARSE_MM), round(STRIDE_MM / COARSE_MM)
    last = len(whole) - length
    starts = [*range(0, last, stride), last]
    if chest is not None:
        starts = [min(max(0, (chest.start + chest.stop - length) // 2), last)]
    return [squared(dense(whole[start : start + length])) for start in starts]


def squared(picture: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows and columns cropped to the animal and padded to one length, so that they may swap."""
    spans = shown_spans(picture)
    side = max(16, *(high - low for low, high in spans))
    for axis, (low, high) in zip((1, 2), spans, strict=True):
        middle = (low + high) // 2
        first = middle - side // 2
        index = np.arange(first, first + side)
        taken = np.take(picture, np.clip(index, 0, picture.shape[axis] - 1), axis)
        outside = (index < 0) | (index >= picture.shape[axis])
        shape = [1, 1, 1]
        shape[axis] = side
        picture = np.where(outside.reshape(shape), np.float32(0.0), taken)
    return picture


def shown_spans(picture: npt.NDArray[np.float32]) -> list[tuple[int, int]]:
    """First row and last plus one that show more than specks of an animal, and its columns."""
    shown = picture > 0.35
    spans = []
    for axis in (1, 2):
        others = tuple(i for i in range(3) if i != axis)
        found = np.flatnonzero(shown.mean(axis=others) > 0.02)
        spans.append((int(found[0]), int(found[-1]) + 1) if len(found) else (0, 1))
    return spans


def turned_all_ways(picture: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    """The picture turned straight from each of `WAYS`."""
    return [
        np.ascontiguousarray(Reorientation.between(way, STRAIGHT).apply(picture)) for way in WAYS
    ]


def _parity(letters: str) -> int:
    """1 for a proper turn, -1 for a mirror image."""
    axis_of = {"S": 0, "I": 0, "P": 1, "A": 1, "L": 2, "R": 2}
    matrix = np.zeros((3, 3))
    for axis, letter in enumerate(letters):
        matrix[axis, axis_of[letter]] = 1.0 if letter in STRAIGHT else -1.0
    return round(float(np.linalg.det(matrix)))


def _shape(array: npt.NDArray[np.float32]) -> tuple[int, int, int]:
    return (array.shape[0], array.shape[1], array.shape[2])


def contradictions(labels: Labels) -> list[str]:
    """Positions of organs that contradict how the animal is taken to lie; empty if none does.

    The cord must lie on the back's side of the heart, the left lung on the animal's left.
    """
    turn = Reorientation.between(labels.grid.axis_letters, STRAIGHT)
    spacing = turn.spacing(labels.grid.spacing_mm).zyx
    # The organs' box is enough, because only distances between organs matter.
    turned = turn.apply(labels.labels_zyx[labels.box])
    middles_mm = {}
    for label, organ in labels.organs.items():
        found = np.argwhere(turned == label)
        if len(found):
            middles_mm[organ] = found.mean(axis=0) * spacing
    middle_mm = by_role(middles_mm, labels.roles)
    contradicting = []
    if {Role.CORD, Role.HEART} <= set(middle_mm):
        behind_mm = float(middle_mm[Role.CORD][1] - middle_mm[Role.HEART][1])
        if behind_mm < MIN_BEHIND_MM:
            contradicting.append(
                f"the cord lies {-behind_mm:.1f} mm to the belly's side of the heart"
            )
    if {Role.LUNG_L, Role.LUNG_R} <= set(middle_mm):
        left_mm = float(middle_mm[Role.LUNG_L][2] - middle_mm[Role.LUNG_R][2])
        if left_mm < 0:
            contradicting.append("the left lung lies on the animal's right")
    return contradicting


def right_lung_share(volumes_mm3: Mapping[Role, float]) -> float | None:
    """The right lung's share of both lungs; None if one is absent."""
    left, right = volumes_mm3.get(Role.LUNG_L, 0.0), volumes_mm3.get(Role.LUNG_R, 0.0)
    return right / (left + right) if left and right else None
