"""Everything that decides what comes out of training the embedded bundle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what comes out.

    Attributes
    ----------
    stems : networks trained first, on `stem_phantoms`; fold k starts from stem k % stems
    phantoms : animals of the folds, a fifth of them held out by each
    average : how slowly the weights that are kept follow those that learn
    start : a bundle from whose folds the stems start; None for networks that know nothing
    """

    spacing_mm: float = 0.2
    shape_zyx: tuple[int, int, int] = (200, 144, 156)
    patch_zyx: tuple[int, int, int] = (80, 64, 80)
    features: tuple[int, ...] = (16, 32, 64, 80, 96)
    folds: int = 5
    stems: int = 2
    stem_phantoms: int = 180
    stem_steps: int = 3500
    phantoms: int = 50
    steps: int = 400
    first_seed: int = 1000
    first_stem_seed: int = 2000
    learning_rate: float = 3e-3
    fold_learning_rate: float = 8e-4
    warm_up_steps: int = 60
    average: float = 0.997
    start: str | None = None


def going_on(bundle: Path) -> Recipe:
    """The recipe that teaches a bundle phantoms it has not seen: fewer and smaller steps.

    The seeds are new to `phantom-4`. What comes of it has seen them: who goes on from that draws
    others here.
    """
    return replace(
        Recipe(),
        start=str(bundle),
        stem_phantoms=150,
        stem_steps=4000,
        steps=300,
        learning_rate=2e-3,
        first_seed=6000,
        first_stem_seed=7000,
    )
