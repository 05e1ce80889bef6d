"""The settings that decide the embedded bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from limn.domain.errors import ConfigWrong
from limn.domain.scan import Organ
from limn.phantom.anatomy import TRACHEA, TRUTH_LABELS, WHOLE_LABELS
from limn.segment.bundle.bundle import open_bundle

# Each version of the bundle has its own range of seeds for its phantoms.
SEEDS_A_VERSION = 10_000


@dataclass(frozen=True, slots=True)
class Recipe:
    """All settings of a training on phantoms.

    Attributes
    ----------
    patch_zyx : holds most chests from T1 to T13, so that one tile is enough
    stems : networks trained first, on `stem_phantoms`; fold k starts from stem k % stems
    phantoms : animals of the folds; each fold leaves a fifth of them out
    average : how much of itself the average of the weights keeps at each step
    start : path of a bundle from whose folds the stems start; None for untrained networks
    organs : names of `phantom.anatomy.WHOLE_LABELS`; none for the four of the embedded bundle
    small_networks : path of a bundle that gives onlooker and localiser; None to train them
    """

    spacing_mm: float = 0.2
    shape_zyx: tuple[int, int, int] = (200, 144, 156)
    patch_zyx: tuple[int, int, int] = (128, 80, 96)
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
    organs: tuple[str, ...] = ()
    small_networks: str | None = None

    @property
    def labels(self) -> Mapping[int, Organ]:
        """The organs by their label."""
        if not self.organs:
            return TRUTH_LABELS
        return {label: Organ(name) for label, name in enumerate(self.organs, start=1)}

    @property
    def painted(self) -> list[int]:
        """The labels of the phantoms' truth that are learnt, in the order of `labels`."""
        by_name = {organ: label for label, organ in WHOLE_LABELS.items()}
        return [by_name[organ] for organ in self.labels.values()]

    @property
    def beyond_chest(self) -> bool:
        """Whether it learns an organ that does not lie in the chest."""
        return not set(self.painted) <= {*TRUTH_LABELS, TRACHEA}


def version_after(start: str | None) -> int:
    """The version of a new bundle: one more than the bundle that it starts from, or 1.

    Raises
    ------
    ConfigWrong
        If the version is no number, so that the bundle is not from ``train-phantom``.
    """
    if start is None:
        return 1
    version = open_bundle(Path(start)).version
    if not version.isdecimal():
        msg = f"{start} is version {version!r}; give a bundle that train-phantom made"
        raise ConfigWrong(msg)
    return int(version) + 1


def quick(organs: tuple[str, ...], small_networks: Path) -> Recipe:
    """A small recipe for any organs: one coarse fold, to try a bundle of them the whole way.

    Raises
    ------
    ConfigWrong
        If the phantoms have no such organ, or an organ is given twice.
    """
    if unknown := sorted(set(organs) - set(WHOLE_LABELS.values())):
        known = ", ".join(WHOLE_LABELS.values())
        msg = f"the phantoms have no {', '.join(unknown)}; they have {known}"
        raise ConfigWrong(msg)
    if len(set(organs)) < len(organs):
        msg = f"--organs {','.join(organs)}: an organ is given twice"
        raise ConfigWrong(msg)
    return Recipe(
        spacing_mm=0.4,
        shape_zyx=(160, 72, 80),
        patch_zyx=(80, 64, 64),
        features=(12, 24, 48, 64),
        folds=1,
        stems=1,
        stem_phantoms=24,
        stem_steps=300,
        phantoms=5,
        steps=100,
        first_seed=6000,
        first_stem_seed=6100,
        organs=organs,
        small_networks=str(small_networks),
    )


def going_on(bundle: Path) -> Recipe:
    """The recipe that trains a bundle further on new phantoms, with fewer and smaller steps."""
    first_seed = SEEDS_A_VERSION * version_after(str(bundle))
    return replace(
        Recipe(),
        start=str(bundle),
        stem_phantoms=150,
        stem_steps=1200,
        phantoms=40,
        steps=250,
        learning_rate=1e-3,
        first_seed=first_seed,
        first_stem_seed=first_seed + SEEDS_A_VERSION // 2,
    )
