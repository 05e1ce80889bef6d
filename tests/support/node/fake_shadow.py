"""``python -m tests.support.node.fake_shadow CONFIG``: a node's shadow whose drawing thresholds.

Every process is the real one; only the shadow's network is replaced, by one that draws larger
hearts. With scans after CONFIG it is the process that draws.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_dilation

from limn.node.contour.work.warm import Warm, options_of
from limn.node.shadow import drawing, watch
from limn.segment.bundle.bundle import open_bundle
from tests.support.node.fake_worker import FakeEnsemble
from tests.support.organs import Organ

# Long enough that a test can send a scan meanwhile.
SHADOW_S = float(os.environ.get("FAKE_SHADOW_S", "0.05"))


class LargerHearts(FakeEnsemble):
    """A network that draws a heart one voxel too large on every side."""

    def label(self, prepared, inferred):
        """Label every organ by its density, then dilate the heart."""
        labels = super().label(prepared, inferred)
        number = next(n for n, organ in labels.organs.items() if organ == Organ.HEART)
        heart = binary_dilation(labels.labels_zyx == number) & (labels.labels_zyx == 0)
        zyx = np.where(heart, number, labels.labels_zyx).astype(np.uint8)
        return replace(labels, labels_zyx=zyx)


def fake_warm_up(config, kept_in=()):
    """In the place of `warm_up`."""
    del kept_in
    bundle = open_bundle(config.model.bundle)
    ensemble = LargerHearts(bundle)
    ensemble.inference_s = SHADOW_S
    return Warm(ensemble, options_of(config, bundle))


def fake_command(config_path, scans):
    """In the place of `drawing_command`."""
    return [sys.executable, "-m", __spec__.name, str(config_path), *map(str, scans)]


if __name__ == "__main__":
    config_path, *scans = sys.argv[1:]
    if scans:
        drawing.warm_up = fake_warm_up
        drawing.draw(Path(config_path), [int(scan) for scan in scans])
    else:
        real = watch.Shadow
        watch.Shadow = lambda *given: real(*given, fake_command)
        watch.run_shadow(Path(config_path))
