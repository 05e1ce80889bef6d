"""A loaded ensemble with the options of a site's config; torch is imported when one is made."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from limn.node.config import Config
from limn.node.contour.job import Job
from limn.node.contour.site_bundle import kind_of, style_of
from limn.node.contour.work.ahead import Ahead

if TYPE_CHECKING:
    from limn.node.contour.pipeline import Options
    from limn.segment.bundle.bundle import Bundle
    from limn.segment.engine.ensemble import Ensemble

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Warm:
    """A loaded ensemble with the options of this host's config.

    Attributes
    ----------
    ahead : what is read between the jobs
    """

    ensemble: Ensemble
    options: Options
    ahead: Ahead = field(default_factory=Ahead)

    def read_ahead(self, folder: Path) -> None:
        """Read a series while it comes in."""
        from limn.node.contour.pipeline import open_scan  # noqa: PLC0415

        self.ahead.follow(
            folder,
            partial(
                open_scan, species=self.ensemble.bundle.species, assume_hu=self.options.assume_hu
            ),
        )

    @property
    def kind(self) -> str:
        """Which limn and which bundle; a node's scans only go to workers of its own kind."""
        return kind_of(self.ensemble.bundle)


def warm_up(config: Config, kept_in: Sequence[Path] = ()) -> Warm:
    """Verify the bundle, decide on int8, load every fold, run each once.

    Parameters
    ----------
    kept_in : folders of verdicts on int8, beside the user's cache
    """
    import torch  # noqa: PLC0415

    from limn.segment.bundle.bundle import open_bundle  # noqa: PLC0415
    from limn.segment.engine.ensemble import Ensemble  # noqa: PLC0415
    from limn.segment.engine.int8 import with_int8  # noqa: PLC0415
    from limn.segment.judge.judge_of_bundle import judge_of  # noqa: PLC0415

    device = config.model.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    bundle = open_bundle(config.model.bundle)
    # A judge that can't be read is found before an animal is asleep.
    judge_of(bundle)
    if device == "cpu" and config.model.int8:
        bundle = with_int8(bundle, log.info, kept_in)
    ensemble = Ensemble.load(
        bundle, device, config.model.profile or bundle.profile, mirroring=config.model.mirroring
    )
    ensemble.warm_up()
    if ensemble.lost_gpu:
        log.error(
            "model.device is %s, but the GPU can't be used (%s): this worker computes on the CPU, "
            "every scan takes longer and is flagged gpu-failed:cpu; look at the GPU and its driver",
            config.model.device,
            ensemble.lost_gpu,
        )
    return Warm(ensemble, options_of(config, bundle))


def options_of(site: Config | Job, bundle: Bundle) -> Options:
    """The pipeline's options in a site's config, or in a job from that site."""
    from limn.node.contour.pipeline import Options  # noqa: PLC0415

    return Options(
        two_animals=site.model.two_animals,
        assume_hu=site.model.assume_hu,
        style=style_of(site.planning_system, bundle, site.roi),
        max_points=site.planning_system.max_points,
        calibrate=site.model.calibrate,
        hold=site.judge.hold,
        rois=site.roi,
    )
