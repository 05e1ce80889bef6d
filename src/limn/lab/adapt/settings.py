"""The settings of an adaptation, and the work folder that belongs to them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limn.domain.errors import ConfigWrong
from limn.domain.files import write_durably

NAME = "settings.json"
# A fold that learns for fewer steps has learnt nothing that can be told from chance.
FEWEST_STEPS = 20
# More steps on few animals gain nothing that their other days would show.
MOST_STEPS = 400
# Of the night, what is left for painting, watching and the scores at the end.
SHARE_TO_LEARN = 0.75
# So many looks at what a fold left out are enough to see when it stops to get better.
LOOKS = 12


@dataclass(frozen=True, slots=True)
class AdaptSettings:
    """How a bundle learns from few animals.

    Attributes
    ----------
    steps : of each fold, one patch a step
    patience : a fold ends after so many looks at its left-out animals without a better one
    average : how much of itself the average of the weights keeps at each step
    site_share : share of the steps that show the site's animals; the others show phantoms
    phantoms : that the folds learn from, so that what was known stays known
    phantoms_watched : others, on which each look also says what was forgotten
    phantoms_scored : others, of the page's table
    """

    steps: int
    patience: int = 6
    learning_rate: float = 4e-4
    warm_up_steps: int = 10
    average: float = 0.97
    site_share: float = 0.3
    phantoms: int = 40
    phantoms_watched: int = 3
    phantoms_scored: int = 8

    @property
    def every(self) -> int:
        """Steps between two looks at the left-out animals."""
        return max(5, round(self.steps / LOOKS))

    @property
    def looks(self) -> tuple[int, ...]:
        """The steps after which a fold looks at its left-out animals; 0 is the start."""
        return (*range(0, self.steps, self.every), self.steps)


def steps_for(hours: float, seconds_a_step: float, folds: int, workers: int) -> int:
    """The steps of each fold that fit into a time.

    Raises
    ------
    ConfigWrong
        If they are fewer than `FEWEST_STEPS`, or the time is none.
    """
    if not 0.0 < hours < math.inf:
        msg = f"--hours {hours:g}: a number above 0 expected"
        raise ConfigWrong(msg)
    rounds = -(-folds // workers)
    steps = int(SHARE_TO_LEARN * hours * 3600 / (rounds * seconds_a_step))
    if steps < FEWEST_STEPS:
        needed = FEWEST_STEPS * rounds * seconds_a_step / SHARE_TO_LEARN / 3600
        msg = (
            f"a step takes {seconds_a_step:.1f} s here: {hours:g} h are {steps} steps for each of "
            f"{folds} folds, and {FEWEST_STEPS} are the fewest; give --hours {needed:.1f} or more, "
            "or a computer with a GPU"
        )
        raise ConfigWrong(msg)
    return min(steps, MOST_STEPS)


def kept_settings(work: Path) -> dict[str, Any] | None:
    """What an earlier start wrote into the work folder; None for a new one.

    Raises
    ------
    ConfigWrong
        If the file can't be read.
    """
    path = work / NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        msg = f"{path} can't be read ({error}); give another folder, or delete this one"
        raise ConfigWrong(msg) from error
    return found if isinstance(found, dict) else {}


def claim_work(work: Path, settings: AdaptSettings, sources: Mapping[str, str]) -> dict[str, Any]:
    """Write the settings into a new work folder, or compare them with those of an old one.

    Parameters
    ----------
    sources : what it learns from and goes on from, by name

    Returns
    -------
    What the folder belongs to.

    Raises
    ------
    ConfigWrong
        If it belongs to others; the text names every difference.
    """
    wanted: dict[str, Any] = json.loads(json.dumps({**sources, **asdict(settings)}))
    kept = kept_settings(work)
    if kept is None:
        write_durably(work / NAME, (json.dumps(wanted, indent=1) + "\n").encode())
    elif different := list(_differences(kept, wanted)):
        msg = (
            f"{work} belongs to another adaptation: {'; '.join(different)}; give another folder, "
            "or delete this one to start again"
        )
        raise ConfigWrong(msg)
    return wanted


def _differences(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys([*kept, *wanted]):
        if kept.get(name) != wanted.get(name):
            yield f"{name} was {kept.get(name)}, is {wanted.get(name)}"
