"""int8 runs where the bundle's sample shows it good on this processor, and only there."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from limn.domain.shipped import MANIFEST
from limn.phantom.chest_tiles import chest_tiles
from limn.segment.bundle.bundle import open_bundle, write_manifest
from limn.segment.bundle.sample import Sample, add_sample
from limn.segment.engine import int8, openvino_net
from limn.segment.engine.int8 import Verdict, decide, with_int8
from limn.segment.engine.networks import load_fold, load_networks, most_streams
from limn.segment.engine.plans import read_plan
from limn.segment.importing.sampled import sampled
from tests.conftest import BUNDLE, one_fold
from tests.support.organs import Organ
from tests.support.segment.bundles import architecture, random_bundle

TAUGHT = Verdict("int8 is used", ({"encoder.stages.0.0.convs.1": (-0.5, 3.0)},))


@pytest.fixture(scope="module")
def chest(tmp_path_factory):
    """One fold of the embedded bundle with a sample of one tile."""
    folder = tmp_path_factory.mktemp("chest") / "bundle"
    shutil.copytree(one_fold(), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("limn.phantom.chest_tiles.SEEDS", (8001,))
        return sampled(folder, chest_tiles)


@pytest.fixture
def tiny(tmp_path):
    """A random network with a sample of zeros: enough for a verdict that is not measured."""
    described = architecture(3, [[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2)
    random_bundle(tmp_path / "tiny", described, [16, 16, 16], [0.3, 0.3, 0.3], folds=1)
    tile = np.zeros((1, 16, 16, 16))
    return add_sample(tmp_path / "tiny", Sample(tile.astype(np.int16), tile.astype(np.uint8)))


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch):
    """Every test has a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def fast_enough(monkeypatch):
    """int8 counts as faster, whatever else this machine does, and is timed once."""
    monkeypatch.setattr(int8, "MOST_TIME", 1e6)
    monkeypatch.setattr(int8, "TIMED_PASSES", 1)


@pytest.fixture
def decided(monkeypatch):
    """How often a verdict was made."""
    made = []

    def stub(bundle, plan):
        made.append(bundle.sha256)
        return TAUGHT

    monkeypatch.setattr(int8, "decide", stub)
    return made


def reseal(folder):
    """The manifest again, after a file was changed."""
    write_manifest(folder, (folder / MANIFEST).read_text().split("\n[files]\n")[0])


def labels_of(bundle, plan, tile, *, half):
    """Labels of one tile of HU."""
    image = (np.clip(tile, plan.low, plan.high) - plan.mean) / plan.std
    networks = load_networks(bundle, plan, "cpu", half=half)
    (logits,) = networks.passes(0, [torch.from_numpy(image.astype(np.float32))])
    return networks.description, logits.argmax(dim=0).numpy()


def test_int8_draws_what_fp32_draws(chest, fast_enough, monkeypatch):
    """On a scan that is not of the sample; the description names int8."""
    lines = []
    bundle = with_int8(chest, lines.append)
    assert lines[0].startswith("int8 is used: ")
    plan = read_plan(bundle)
    monkeypatch.setattr("limn.phantom.chest_tiles.SEEDS", (8003,))
    ((tile, _),) = chest_tiles(plan.patch, (0.2, 0.2, 0.2), "SPL")
    named, ours = labels_of(bundle, plan, tile, half=True)
    exact, theirs = labels_of(bundle, plan, tile, half=False)
    assert (named, exact) == ("cpu openvino int8", "cpu openvino fp32")
    assert 0 < (ours != theirs).sum() < 0.005 * ours.size
    for label in bundle.organs:
        both = 2 * ((ours == label) & (theirs == label)).sum()
        assert both > 0.98 * ((ours == label).sum() + (theirs == label).sum()) > 0


def test_where_int8_is_no_faster_it_is_not_used(tiny, monkeypatch):
    """Processors differ."""
    monkeypatch.setattr(int8, "MOST_TIME", 1e-6)
    monkeypatch.setattr(int8, "TIMED_PASSES", 1)
    verdict = decide(tiny, read_plan(tiny))
    assert verdict.ranges == ()
    assert "times as fast as" in verdict.reason
    assert verdict.reason.startswith("int8 is not used: ")


def test_a_network_that_int8_spoils_stays_as_it_is(chest, fast_enough, tmp_path):
    """One channel in a thousand times larger units: fp32 gives the same labels, int8 does not."""
    folder = shutil.copytree(chest.folder, tmp_path / "spoilt")
    plan = read_plan(chest)
    network = load_fold(chest, plan, 0)
    with torch.no_grad():
        for stage in network.encoder.stages:
            first, second = stage[0].convs
            first.norm.weight[0] *= 1000
            first.norm.bias[0] *= 1000
            second.conv.weight[:, 0] /= 1000
    path = folder / "fold_0" / "checkpoint_final.pth"
    kept = torch.load(path, weights_only=True) | {"network_weights": network.state_dict()}
    torch.save(kept, path)
    reseal(folder)
    spoilt = open_bundle(folder)
    tile = np.load(folder / "sample.npz")["hu"][0]
    _, before = labels_of(chest, plan, tile, half=False)
    _, after = labels_of(spoilt, plan, tile, half=False)
    assert (before != after).mean() < 1e-4
    lines = []
    bundle = with_int8(spoilt, lines.append)
    assert bundle.int8_ranges == ()
    assert "'s DSC to fp32 is 0." in lines[0]


def test_further_from_the_truth_is_not_used(chest):
    """Near fp32 is not enough if what differs was right."""
    sample = Sample(np.zeros((1, 8, 20, 20), np.int16), np.zeros((1, 8, 20, 20), np.uint8))
    sample.truth[0, :, 2:18] = 1
    exact = sample.truth.astype(np.int64)
    rounded = exact.copy()
    rounded[0, 0, 2] = 0
    heart = replace(chest, organs={1: Organ.HEART})
    dsc, fault = int8._compared(exact, rounded, sample, heart)
    assert dsc["Heart"] == pytest.approx(0.996, abs=1e-3)
    assert "Heart's DSC to the truth falls by 0.0039" in fault
    assert int8._compared(rounded, exact, sample, heart)[1] == ""
    assert "finds no Heart" in int8._compared(0 * exact, 0 * exact, sample, heart)[1]


def test_a_bundle_without_a_sample_is_left_as_it_is(decided):
    """Nothing is tried and nothing said."""
    lines = []
    bundle = replace(open_bundle(BUNDLE), sample=None)
    assert with_int8(bundle, lines.append) is bundle
    assert (decided, lines) == ([], [])


def test_a_verdict_is_made_once(tiny, decided, tmp_path):
    """The next start reads it from either folder, and gives the same ranges."""
    lines = []
    first = with_int8(tiny, lines.append, [tmp_path / "data"])
    again = with_int8(tiny, lines.append, [tmp_path / "data"])
    shutil.rmtree(tmp_path / "cache")
    third = with_int8(tiny, lines.append, [tmp_path / "data"])
    assert first.int8_ranges == again.int8_ranges == third.int8_ranges == TAUGHT.ranges
    assert len(decided) == 1
    assert lines[0] == "int8 is used"
    assert lines[1].startswith("int8 is used (found before, ")
    assert (tmp_path / "data").stat().st_mode & 0o077 == 0 or os.name == "nt"


def test_a_verdict_beside_the_installed_bundles_is_read(tiny, decided, tmp_path):
    """Where the install wrote it; the worker may not write there."""
    with_int8(tiny, print, [tmp_path / ".int8"])
    shutil.rmtree(tmp_path / "cache")
    assert with_int8(tiny, print).int8_ranges == TAUGHT.ranges
    assert len(decided) == 1
    assert list((tmp_path / "cache").rglob("*.json")) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda contents: contents[: len(contents) // 2],
        lambda contents: contents.replace(b"3.0", b"9.0"),
        lambda contents: b"",
        lambda contents: b"\xff" * 200,
    ],
    ids=["cut off", "another range", "empty", "noise"],
)
def test_a_damaged_verdict_is_made_again(tiny, decided, tmp_path, damage):
    """And what stood there is replaced."""
    with_int8(tiny, print)
    (path,) = (tmp_path / "cache" / "limn" / "int8").iterdir()
    sound = path.read_bytes()
    path.write_bytes(damage(sound))
    assert with_int8(tiny, print).int8_ranges == TAUGHT.ranges
    assert len(decided) == 2
    assert path.read_bytes() == sound


def test_a_verdict_of_another_processor_bundle_or_openvino_is_not_believed(
    tiny, decided, tmp_path, monkeypatch
):
    """Not even if its file has this one's name."""
    with_int8(tiny, print)
    (path,) = (tmp_path / "cache" / "limn" / "int8").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(openvino_net, "processor", lambda: "another")
        with_int8(tiny, print)
        (other,) = {*path.parent.iterdir()} - {path}
        with_int8(replace(tiny, sha256="ab" * 32), print)
    assert len(decided) == 3
    path.write_bytes(other.read_bytes())
    with_int8(tiny, print)
    assert len(decided) == 4
    monkeypatch.setattr(openvino_net, "VERSION", "1")
    with_int8(tiny, print)
    assert len(decided) == 5


@pytest.mark.skipif(os.name == "nt", reason="no owners and bits there")
def test_a_verdict_that_others_may_write_is_not_believed(tiny, decided, tmp_path):
    """It would decide what is drawn."""
    with_int8(tiny, print)
    (path,) = (tmp_path / "cache" / "limn" / "int8").iterdir()
    path.chmod(0o666)
    with_int8(tiny, print)
    assert len(decided) == 2


def test_where_nothing_can_be_written_each_start_tries_again(tiny, decided, tmp_path, monkeypatch):
    """And says so."""
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    lines = []
    for _ in range(2):
        bundle = with_int8(tiny, lines.append, [tmp_path / "file"])
        assert bundle.int8_ranges == TAUGHT.ranges
    assert len(decided) == 2
    assert all("can't be written" in line and "next start tries again" in line for line in lines)


def test_one_tile_of_the_whole_chest_has_every_core():
    """Two tiles side by side are for bundles that need many."""
    bundle = open_bundle(BUNDLE)
    plan = read_plan(bundle)
    assert most_streams(bundle, plan) == 1
    assert most_streams(bundle, replace(plan, patch=(80, 64, 80))) == openvino_net.MOST_STREAMS
    chest = replace(plan, patch=(128, 80, 96))
    assert most_streams(bundle, chest) == 1
    assert most_streams(bundle, replace(chest, patch=(80, 96, 128))) == 1
    assert most_streams(bundle, replace(chest, patch=(128, 64, 96))) == openvino_net.MOST_STREAMS
    assert most_streams(replace(bundle, profile="paper"), chest) == openvino_net.MOST_STREAMS
    weights = load_fold(bundle, plan, 0).state_dict()
    requests = openvino_net.compiled(
        weights, plan.architecture, (32, 32, 32), half=False, most_streams=1
    )
    assert len(requests) == 2
