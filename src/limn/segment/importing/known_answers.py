"""Records what a bundle's networks answer when it is sealed, and compares it later."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from limn.domain.errors import BundleUnfit
from limn.segment.bundle.bundle import Bundle
from limn.segment.engine.weights import build, fill
from limn.segment.importing.pickles import read_checkpoint

ANSWERS_FILE = "golden.json"
# Answers that are kept of each class, spread over the whole picture.
SAMPLES = 64
# Share of the largest answer; processors sum in different orders.
TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class AnswerCheck:
    """How a bundle's networks answered, compared with the record.

    Attributes
    ----------
    difference : largest over all folds from the recorded answers; None if none were recorded
    largest : the largest recorded answer
    """

    folds: int
    difference: float | None
    largest: float

    @property
    def sound(self) -> bool:
        """Whether the answers are those of the record, as far as one exists."""
        return self.difference is None or self.difference <= TOLERANCE * max(self.largest, 1e-6)


def record(
    folder: Path, architecture: dict[str, Any], channels: int, networks: Iterable[nn.Module]
) -> None:
    """Write every fold's answer to the test picture into the bundle's folder."""
    picture = test_picture(architecture, channels)
    answers = [_answer(network, picture) for network in networks]
    content = {
        "what": "answers of every fold to test_picture, CPU fp32",
        "shape": list(picture.shape),
        "folds": [[[float(value) for value in row] for row in answer] for answer in answers],
    }
    (folder / ANSWERS_FILE).write_text(json.dumps(content) + "\n", encoding="utf-8")


def check_answers(bundle: Bundle) -> AnswerCheck:
    """Build every network of a bundle and compare its answers with the recorded ones.

    Raises
    ------
    BundleUnfit
        If plans and weights do not fit together, or an answer is not finite.
    """
    try:
        plans = json.loads((bundle.folder / "plans.json").read_text(encoding="utf-8"))
        dataset = json.loads((bundle.folder / "dataset.json").read_text(encoding="utf-8"))
        architecture = plans["configurations"][bundle.configuration]["architecture"]
        channels = len(dataset["channel_names"]) + (len(bundle.organs) if bundle.previous else 0)
        recorded = None
        if (bundle.folder / ANSWERS_FILE).is_file():
            recorded = json.loads((bundle.folder / ANSWERS_FILE).read_text(encoding="utf-8"))[
                "folds"
            ]
        picture = test_picture(architecture, channels)
        wanted = [np.array(each, dtype=np.float32) for each in recorded or ()]
    except (ValueError, LookupError, TypeError, MemoryError, RecursionError) as error:
        msg = f"bundle {bundle.label}: plans.json, dataset.json or {ANSWERS_FILE}: {error!r}"
        raise BundleUnfit(msg) from error
    if recorded is not None and len(wanted) != len(bundle.folds):
        msg = (
            f"bundle {bundle.label}: {ANSWERS_FILE} has {len(wanted)} of {len(bundle.folds)} folds"
        )
        raise BundleUnfit(msg)
    difference, largest = 0.0, 0.0
    for k, fold in enumerate(bundle.folds):
        path = bundle.checkpoint(fold)
        network = build(architecture, channels, len(bundle.organs) + 1)
        checkpoint = read_checkpoint(path)
        answer = _answer(fill(network, checkpoint.get("network_weights", {}), path), picture)
        if not np.isfinite(answer).all():
            msg = f"bundle {bundle.label}: fold {fold} gives answers that are not finite"
            raise BundleUnfit(msg)
        if recorded is not None:
            if wanted[k].shape != answer.shape:
                msg = f"bundle {bundle.label}: {ANSWERS_FILE} is of another network"
                raise BundleUnfit(msg)
            difference = max(difference, float(np.abs(answer - wanted[k]).max()))
            largest = max(largest, float(np.abs(wanted[k]).max()))
    return AnswerCheck(len(bundle.folds), None if recorded is None else difference, largest)


def test_picture(architecture: dict[str, Any], channels: int) -> torch.Tensor:
    """The smallest picture that the strides allow; whole numbers make it the same everywhere."""
    strides = np.array(architecture["arch_kwargs"]["strides"])
    shape = tuple(int(n) for n in 2 * np.maximum(strides.prod(axis=0), 2))
    count = channels * int(np.prod(shape))
    mixed = (np.arange(count, dtype=np.uint64) * np.uint64(2654435761)) % np.uint64(2**32)
    values = (mixed >> np.uint64(16)).astype(np.float32) / np.float32(16384.0) - np.float32(2.0)
    return torch.from_numpy(values.reshape(1, channels, *shape))


def _answer(network: nn.Module, picture: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    with torch.inference_mode():
        output = network(picture)[0].float().flatten(1)
    step = max(1, output.shape[1] // SAMPLES)
    return np.asarray(output[:, ::step][:, :SAMPLES].numpy(), dtype=np.float32)
