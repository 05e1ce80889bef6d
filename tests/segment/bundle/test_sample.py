"""A bundle's sample is sealed with it, and is what its network takes."""

import numpy as np
import pytest

from limn.domain.errors import BundleUnfit
from limn.domain.shipped import MANIFEST
from limn.segment.bundle.bundle import open_bundle
from limn.segment.bundle.sample import Sample, add_sample, read_sample
from tests.support.segment.bundles import architecture, random_bundle

PATCH = (16, 16, 16)


@pytest.fixture
def bundle(tmp_path):
    """A bundle without a sample."""
    described = architecture(3, [[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2)
    return random_bundle(tmp_path / "own", described, [*PATCH], [0.3, 0.3, 0.3], folds=1)


def tiles(dtype=np.int16, shape=(2, *PATCH)):
    """A sample of numbers in a row."""
    numbers = np.arange(np.prod(shape)).reshape(shape)
    return Sample(numbers.astype(dtype), (numbers % 5).astype(np.uint8))


def test_a_sample_is_sealed_and_read(bundle):
    """The manifest names and hashes it; a second time changes nothing, another one replaces it."""
    assert bundle.sample is None
    assert read_sample(bundle, PATCH) is None
    added = add_sample(bundle.folder, tiles())
    assert added.sha256 != bundle.sha256
    assert "sample.npz" in added.files
    found = read_sample(added, PATCH)
    np.testing.assert_array_equal(found.hu, tiles().hu)
    np.testing.assert_array_equal(found.truth, tiles().truth)
    assert add_sample(bundle.folder, tiles()).sha256 == added.sha256
    assert add_sample(bundle.folder, tiles(shape=(1, *PATCH))).sha256 != added.sha256
    assert (bundle.folder / MANIFEST).read_text().count("\nsample = ") == 1


@pytest.mark.parametrize(
    "sample", [tiles(np.float32), tiles(shape=(2, 16, 16, 8)), tiles(shape=(0, *PATCH))]
)
def test_a_sample_of_another_network_is_refused(bundle, sample):
    """The message names what is there and what is expected."""
    added = add_sample(bundle.folder, sample)
    with pytest.raises(BundleUnfit, match=r"sample.npz holds .* tiles of \(16, 16, 16\) expected"):
        read_sample(added, PATCH)


@pytest.mark.parametrize("contents", [b"", b"PK no zip", b"\x80\x04K\x01."])
def test_what_is_no_sample_is_refused(bundle, contents):
    """Pickles are never read."""
    added = add_sample(bundle.folder, tiles())
    (bundle.folder / "sample.npz").write_bytes(contents)
    with pytest.raises(BundleUnfit, match=r"sample.npz is no sample"):
        read_sample(added, PATCH)
    with pytest.raises(BundleUnfit, match=r"sample.npz has sha256"):
        open_bundle(bundle.folder)
