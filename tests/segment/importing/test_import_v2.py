import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch

from limn.domain.errors import BundleUnfit
from limn.segment.importing.import_v2 import read_v2
from limn.segment.importing.known_answers import check_answers
from limn.segment.importing.trained import BundleStatement, seal
from tests.conftest import BUNDLE
from tests.support.organs import Organ
from tests.support.segment.bundles import architecture, random_bundle

ORGANS = {1: Organ.HEART, 2: Organ.CORD, 3: Organ.LUNG_R, 4: Organ.LUNG_L}
STATEMENT = BundleStatement(name="mouse", version="1", organs=ORGANS, orientation="SPL")


@pytest.fixture
def trained(tmp_path):
    """Two folds of the embedded bundle in a folder of nnunetv2, with optimiser and log."""
    folder = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    folder.mkdir()
    for name in ("plans.json", "dataset.json"):
        shutil.copy(BUNDLE / name, folder / name)
    for fold in range(2):
        source = BUNDLE / f"fold_{fold}/checkpoint_final.pth"
        held = torch.load(source, weights_only=True)
        held |= {
            "optimizer_state": {"state": {}},
            "grad_scaler_state": None,
            "logging": {"ema_fg_dice": [np.float64(0.5)], "lrs": [np.float32(0.1)]},
            "_best_ema": np.float64(0.9),
            "current_epoch": 1000,
            "inference_allowed_mirroring_axes": (0, 1),
        }
        held["init_args"] |= {"device": torch.device("cpu"), "fold": fold}
        (folder / f"fold_{fold}").mkdir()
        torch.save(held, folder / f"fold_{fold}/checkpoint_final.pth")
    return folder


def changed(folder, change):
    """The folder with other plans."""
    plans = json.loads((folder / "plans.json").read_text())
    change(plans)
    (folder / "plans.json").write_text(json.dumps(plans))
    return folder


def test_a_bundle_comes_out(trained, tmp_path):
    """Weights, plans and what the training mirrored are the training's own."""
    read = read_v2(trained)
    assert read.labels == {1: "Heart", 2: "SpinalCord", 3: "Lung_R", 4: "Lung_L"}
    bundle = seal(read, STATEMENT, tmp_path / "bundle")
    assert (bundle.profile, bundle.mirror_axes, bundle.folds) == ("stock", (0, 1), (0, 1))
    assert check_answers(bundle).difference == 0.0
    for fold in (0, 1):
        own = torch.load(BUNDLE / f"fold_{fold}/checkpoint_final.pth", weights_only=True)
        ours = torch.load(bundle.checkpoint(fold), weights_only=True)
        assert set(ours) == set(own)
        assert set(ours["network_weights"]) == set(own["network_weights"])
        for name, tensor in own["network_weights"].items():
            assert torch.equal(ours["network_weights"][name].float(), tensor.float())


def test_plans_of_before_2_2_are_read(tmp_path):
    """Plans that list the network's numbers one by one describe the same network."""
    described = architecture(3, [[1, 1, 1], [2, 2, 2], [2, 2, 2]], [[3, 3, 3]] * 3)
    trained = random_bundle(tmp_path / "t", described, [16, 16, 24], [0.3, 0.3, 0.3]).folder

    def of_old(plans):
        chosen = plans["configurations"]["3d_fullres"]
        kwargs = chosen.pop("architecture")["arch_kwargs"]
        chosen |= {
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": kwargs["features_per_stage"][0],
            "unet_max_num_features": 320,
            "n_conv_per_stage_encoder": kwargs["n_conv_per_stage"],
            "n_conv_per_stage_decoder": kwargs["n_conv_per_stage_decoder"],
            "conv_kernel_sizes": kwargs["kernel_sizes"],
            "pool_op_kernel_sizes": kwargs["strides"],
        }

    new = seal(read_v2(trained), STATEMENT, tmp_path / "new")
    old = seal(read_v2(changed(trained, of_old)), STATEMENT, tmp_path / "old")
    assert (new.folder / "golden.json").read_text() == (old.folder / "golden.json").read_text()


def test_a_configuration_that_inherits_is_resolved(trained):
    """What a configuration takes from another is written out."""

    def inherit(plans):
        chosen = plans["configurations"].pop("3d_fullres")
        plans["configurations"] = {
            "base": chosen,
            "3d_fullres": {"inherits_from": "base", "patch_size": [32, 32, 32]},
        }

    plans = read_v2(changed(trained, inherit)).plans["configurations"]
    assert list(plans) == ["3d_fullres"]
    assert plans["3d_fullres"]["patch_size"] == [32, 32, 32]
    assert plans["3d_fullres"]["spacing"] == [0.2] * 3


class Payload:
    """Runs a command if it is read without protection."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch '{self.mark}'",)


def test_a_hostile_checkpoint_is_refused_and_not_run(trained, tmp_path):
    """nnunetv2 itself reads checkpoints with weights_only=False; limn does not."""
    mark = tmp_path / "was run"
    path = trained / "fold_1/checkpoint_final.pth"
    path.write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(BundleUnfit, match=r"fold_1/checkpoint_final\.pth is refused"):
        seal(read_v2(trained), STATEMENT, tmp_path / "bundle")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("network_class_name", "os.system"),
        ("network_class_name", "subprocess.Popen"),
        ("conv_op", "os.system"),
        ("nonlin", "builtins.eval"),
    ],
)
def test_plans_may_name_networks_and_layers_only(trained, key, value):
    """Names in plans.json are imported and called; a name of anything else is refused."""

    def hostile(plans):
        described = plans["configurations"]["3d_fullres"]["architecture"]
        (described if key in described else described["arch_kwargs"])[key] = value

    with pytest.raises(BundleUnfit, match=rf"names .*{value}"):
        read_v2(changed(trained, hostile))


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        ({"background": 0, "whole": [1, 2], "Heart": 1}, "region"),
        ({"background": 0, "Heart": 1, "ignore": 2}, "ignore"),
        ({"background": 0, "Heart": 2}, r"labels \[2\]"),
    ],
)
def test_labels_that_limn_cant_take_over_are_refused(trained, labels, complaint):
    """Regions, ignore labels and gaps are named."""
    dataset = json.loads((trained / "dataset.json").read_text()) | {"labels": labels}
    (trained / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(BundleUnfit, match=complaint):
        read_v2(trained)


@pytest.mark.parametrize(
    ("key", "arguments"),
    [
        ("data", {"order": 1}),
        ("data", {"force_separate_z": False}),
        ("probabilities", {"order": 0}),
        ("probabilities", {"order_z": 1}),
    ],
)
def test_other_splines_are_refused(trained, key, arguments):
    """The resampling is fixed; plans that want another are refused with the value."""

    def other(plans):
        plans["configurations"]["3d_fullres"][f"resampling_fn_{key}_kwargs"] |= arguments

    name = next(iter(arguments))
    with pytest.raises(BundleUnfit, match=rf"resampling_fn_{key}_kwargs has {name} .*, limn"):
        read_v2(changed(trained, other))


def test_another_resampling_is_refused(trained):
    """Without the refusal such a network would get wrongly prepared scans."""

    def other(plans):
        plans["configurations"]["3d_fullres"]["resampling_fn_data"] = "resample_torch_simple"

    with pytest.raises(BundleUnfit, match="resample_torch_simple"):
        read_v2(changed(trained, other))
