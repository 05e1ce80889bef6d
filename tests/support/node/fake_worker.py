"""Preload of a worker for tests: a network that thresholds; the rest of the pipeline is real.

``dask worker --preload tests.support.node.fake_worker CONFIG``, in the place of
`limn.node.contour.work.worker`.
"""

import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np

from limn.domain.scan import Labels
from limn.node import oplog
from limn.node.config import load_config
from limn.node.contour.work import worker
from limn.node.contour.work.warm import Warm, options_of
from limn.node.host import lifetime
from limn.segment.bundle.bundle import Bundle, open_bundle
from limn.segment.engine.certainty import Certainty
from tests.support.node.toy import labelled

# Long enough that a kill at a random time sometimes meets a running scan.
INFERENCE_S = float(os.environ.get("FAKE_INFERENCE_S", "0.05"))


class FakeEnsemble:
    """In the place of `segment.engine.ensemble.Ensemble`, without a network."""

    finder = localiser = None
    description = "threshold"
    profile = SimpleNamespace(name="fake")

    def __init__(self, bundle: Bundle) -> None:
        # A judge of networks has nothing to say of a threshold.
        self.bundle = replace(bundle, judge=None)
        self.inference_s = INFERENCE_S

    def first_fold(self):
        """The same with one fold, which takes a fifth of the time."""
        one = FakeEnsemble(replace(self.bundle, folds=self.bundle.folds[:1]))
        one.inference_s = self.inference_s / 5
        return one

    def despite_gpu(self, step):
        """Run the step: there is no GPU that could fail."""
        return step()

    def prepare(self, volume):
        """The volume as it is."""
        return volume

    def infer(self, prepared, progress, organs=None):
        """Pass some time; all folds agree."""
        time.sleep(self.inference_s)
        progress(1, 1)
        return SimpleNamespace(
            agreement=dict.fromkeys(self.bundle.organs, 1.0),
            certainty=dict.fromkeys(self.bundle.organs, Certainty(0.97, 0.1, 0.3)),
            flags=(),
        )

    def label(self, prepared, inferred):
        """Label every organ by its density."""
        zyx = labelled(prepared.hu_zyx, self.bundle.organs)
        return Labels(zyx, prepared.grid, self.bundle.organs)

    def disagreement(self, prepared, inferred):
        """Give zero everywhere."""
        return np.zeros(prepared.hu_zyx.shape, dtype=np.uint8)


@click.command()
@click.argument("config_path", type=click.Path(path_type=Path))
def dask_setup(worker_of_dask: object, config_path: Path) -> None:
    """As the real preload, with another network."""
    from limn.node.contour.pipeline import rehearse  # noqa: PLC0415

    config = load_config(config_path)
    oplog.set_up(config.data_dir, "worker", config.log)
    lifetime.end_with_supervisor()
    bundle = open_bundle(config.model.bundle)
    warm = Warm(FakeEnsemble(bundle), options_of(config, bundle))
    rehearse(warm.ensemble, warm.options)
    worker.offer(worker_of_dask, warm)
