import json
import os
import pickle

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from limn.domain.errors import BundleUnfit
from limn.domain.geometry import SpacingMm
from limn.segment.bundle.bundle import CleanRule, open_bundle
from limn.segment.importing.import_v1 import read_v1
from limn.segment.importing.known_answers import check_answers
from limn.segment.importing.trained import BundleStatement, seal
from tests.support.organs import Organ
from tests.support.segment.v1_format import Net, plans_of, write_v1

ORGANS = {1: Organ.HEART, 2: Organ.CORD, 3: Organ.LUNG_R, 4: Organ.LUNG_L}
STATEMENT = BundleStatement(name="mouse", version="1", organs=ORGANS, orientation="SPL")
P, FLAT_P = [2, 2, 2], [1, 2, 2]
K, FLAT_K = [3, 3, 3], [1, 3, 3]
SHAPES = {
    "isotropic": ([K] * 3, [P] * 2, (16, 16, 24)),
    "first kernel flat": ([FLAT_K, K, K], [FLAT_P, P], (8, 16, 16)),
    "two kernels flat": ([FLAT_K, FLAT_K, K, K], [FLAT_P, FLAT_P, P], (4, 32, 32)),
    "last pooling leaves an axis": ([K] * 3, [P, [2, 1, 2]], (16, 8, 16)),
    "one pooling": ([K] * 2, [P], (8, 8, 8)),
    "2d": ([[3, 3]] * 4, [[2, 2]] * 3, (32, 48)),
    "2d, flat kernel": ([[1, 3], [3, 3], [3, 3]], [[1, 2], [2, 2]], (16, 32)),
}


@pytest.fixture
def made(tmp_path):
    """Two folds of a small isotropic network, and their plans."""
    nets = [Net([K] * 3, [P] * 2, seed=fold) for fold in range(2)]
    return nets, plans_of(nets[0], (16, 16, 24)), tmp_path / "v1"


def answers(network, picture):
    """A converted network at every depth."""
    network.decoder.deep_supervision = True
    with torch.inference_mode():
        return network(picture)


@pytest.mark.parametrize("convs", [2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_network_is_the_same_to_the_last_bit(tmp_path, shape, convs):
    """Every answer of every fold at every depth is v1's own, whatever the kernels."""
    kernels, pools, patch = SHAPES[shape]
    nets = [Net(kernels, pools, seed=fold, convs=convs) for fold in range(2)]
    folder = write_v1(tmp_path / "v1", nets, plans_of(nets[0], patch))
    trained = read_v1(folder)
    picture = torch.randn((1, 1, *patch), generator=torch.Generator().manual_seed(5))
    for net, fold in zip(nets, trained.folds, strict=True):
        theirs = net(picture)
        ours = answers(trained.network(fold), picture)
        assert len(ours) == len(theirs) == len(pools)
        assert [float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)] == [0.0] * (
            len(pools)
        )
    assert not torch.equal(nets[0](picture)[0], nets[1](picture)[0])


def test_only_uneven_kernels_need_a_network_of_our_own(tmp_path):
    """Where v2's network is v1's, the bundle names v2's, which nnunetv2 knows."""
    names = {}
    for shape in ("isotropic", "first kernel flat"):
        kernels, pools, patch = SHAPES[shape]
        net = Net(kernels, pools)
        trained = read_v1(write_v1(tmp_path / shape, [net], plans_of(net, patch)))
        names[shape] = trained.architecture["network_class_name"].rpartition(".")[2]
    assert names == {"isotropic": "PlainConvUNet", "first kernel flat": "UnevenUNet"}


def test_a_bundle_comes_out(made, tmp_path):
    """The sealed bundle opens, is complete, answers as recorded and agrees with v1's files."""
    nets, plans, folder = made
    trained = read_v1(write_v1(folder, nets, plans))
    bundle = seal(trained, STATEMENT, tmp_path / "bundle")
    assert bundle == open_bundle(tmp_path / "bundle")
    assert (bundle.profile, bundle.mirror_axes, bundle.configuration) == (
        "paper", (0, 1, 2), "3d_fullres",
    )  # fmt: skip
    assert bundle.folds == (0, 1)
    assert not bundle.demonstration
    assert bundle.trained_on == bundle.not_for == "not said by who exported it"
    assert bundle.spacing_mm == SpacingMm(0.14, 0.14, 0.14)
    assert "Task501_Mouse" in bundle.source
    assert bundle.source.count("sha256") == 5
    assert bundle.clean[Organ.CORD] == CleanRule("pieces", 1.0, 6.0)
    written = json.loads((bundle.folder / "plans.json").read_text())
    properties = written["foreground_intensity_properties_per_channel"]["0"]
    assert properties["std"] == 275.25
    assert properties["percentile_99_5"] == 737.0
    answers = check_answers(bundle)
    assert (answers.folds, answers.difference) == (2, 0.0)
    assert answers.sound


def test_weights_are_written_once_in_full_precision(made, tmp_path):
    """A checkpoint holds each fp32 weight once, and nothing of the training."""
    nets, plans, folder = made
    seal(read_v1(write_v1(folder, nets, plans)), STATEMENT, tmp_path / "bundle")
    path = tmp_path / "bundle/fold_0/checkpoint_final.pth"
    held = torch.load(path, weights_only=True)
    stored = {t.untyped_storage().data_ptr(): t for t in held["network_weights"].values()}
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    own = sum(tensor.numel() for tensor in nets[0].state.values())
    biases = 8 + 4 + 2 * 5
    assert sum(tensor.numel() for tensor in stored.values()) <= own + biases
    assert path.stat().st_size < 4 * (own + biases) + 60_000


def test_nnunetv2_reads_the_bundle(made, tmp_path):
    """The stock predictor opens what was converted and computes the same."""
    nets, plans, folder = made
    seal(read_v1(write_v1(folder, nets, plans)), STATEMENT, tmp_path / "bundle")
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False)
    predictor.initialize_from_trained_model_folder(str(tmp_path / "bundle"), use_folds=(0, 1))
    picture = torch.randn((1, 1, 16, 16, 24))
    for net, weights in zip(nets, predictor.list_of_parameters, strict=True):
        predictor.network.load_state_dict(weights)
        with torch.inference_mode():
            assert torch.equal(predictor.network.eval()(picture), net(picture)[0])


@pytest.mark.parametrize("stage", [0, 1])
def test_the_stage_is_read_from_the_files(tmp_path, stage):
    """The first of two stages is 3d_lowres, the second 3d_fullres, each with its spacing."""
    net = Net([K] * 3, [P] * 2)
    plans = plans_of(net, (16, 16, 24), stages=2)
    trained = read_v1(write_v1(tmp_path / "v1", [net], plans, stage=stage))
    wanted = [("3d_lowres", (0.28, 0.28, 0.28)), ("3d_fullres", (0.14, 0.14, 0.14))][stage]
    assert (trained.configuration, trained.spacing_mm) == wanted


def test_a_cascades_second_stage_is_converted_and_names_its_first(tmp_path):
    """It takes four more channels, one per label, and names the bundle of their labels."""
    net = Net([K] * 3, [P] * 2, channels=5)
    plans = plans_of(net, (16, 16, 24), stages=2)
    folder = write_v1(
        tmp_path / "v1", [net], plans, stage=1, trainer="nnUNetTrainerV2CascadeFullRes"
    )
    trained = read_v1(folder)
    assert (trained.configuration, trained.channels) == ("3d_cascade_fullres", 5)
    bundle = seal(trained, STATEMENT, tmp_path / "bundle")
    assert bundle.previous == "3d_lowres"
    assert check_answers(bundle).difference == 0.0
    picture = torch.randn((1, 5, 16, 16, 24))
    assert torch.equal(answers(trained.network("fold_0"), picture)[0], net(picture)[0])


def test_spacing_is_in_the_order_of_the_reader(tmp_path):
    """The plans' spacing is transposed; the bundle's is not. A 2d bundle keeps the median."""
    net = Net([K] * 3, [P] * 2)
    plans = plans_of(net, (16, 16, 24), spacing=(0.3, 0.2, 0.1), forward=(2, 0, 1))
    trained = read_v1(write_v1(tmp_path / "a", [net], plans))
    assert trained.plans["transpose_forward"] == [2, 0, 1]
    assert trained.plans["transpose_backward"] == [1, 2, 0]
    assert trained.spacing_mm == (0.2, 0.1, 0.3)
    flat = Net([[3, 3]] * 3, [[2, 2]] * 2)
    plans = plans_of(
        flat, (16, 24), spacing=(0.5, 0.2, 0.1), forward=(1, 0, 2), preprocessor="PreprocessorFor2D"
    )
    trained = read_v1(write_v1(tmp_path / "b", [flat], plans))
    assert trained.configuration == "2d"
    assert trained.spacing_mm == (0.2, 0.5, 0.1)
    assert trained.plans["configurations"]["2d"]["spacing"] == [0.2, 0.1]
    assert trained.mirror_axes == (1, 2)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_every_pickle_protocol_is_read(made, protocol):
    """Plans of any Python and NumPy come through."""
    nets, plans, folder = made
    assert read_v1(write_v1(folder, nets, plans, protocol=protocol)).spacing_mm == (0.14,) * 3


def test_old_plans_say_less(made):
    """Plans that only count poolings and know no transposition are read as v1 reads them."""
    nets, plans, folder = made
    for key in ("pool_op_kernel_sizes", "conv_kernel_sizes"):
        del plans["plans_per_stage"][0][key]
    for key in ("transpose_forward", "transpose_backward", "conv_per_stage"):
        del plans[key]
    trained = read_v1(write_v1(folder, nets, plans))
    assert trained.plans["transpose_forward"] == [0, 1, 2]


def test_postprocessing_becomes_the_rules_of_cleaning(made, tmp_path):
    """The largest piece of the classes that v1 lists; everything of the others."""
    nets, plans, folder = made
    write_v1(folder, nets, plans)
    rules = {"for_which_classes": [1, 3], "min_valid_object_sizes": "{1: 0.0, 3: 12.5}"}
    (folder / "postprocessing.json").write_text(json.dumps(rules))
    bundle = seal(read_v1(folder), STATEMENT, tmp_path / "bundle")
    assert bundle.clean == {
        Organ.HEART: CleanRule("largest"),
        Organ.CORD: CleanRule("pieces", 0.0),
        Organ.LUNG_R: CleanRule("pieces", 12.5),
        Organ.LUNG_L: CleanRule("pieces", 0.0),
    }


def test_a_rule_that_limn_lacks_is_noted(made):
    """A rule over several classes together is named in a note."""
    nets, plans, folder = made
    write_v1(folder, nets, plans)
    (folder / "postprocessing.json").write_text('{"for_which_classes": [[1, 2, 3, 4], 2]}')
    trained = read_v1(folder)
    assert "several labels taken together" in trained.notes[0]
    assert trained.clean[2] == CleanRule("largest")


class Payload:
    """A pickle that runs a command if it is read without protection."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch '{self.mark}'",)


@pytest.mark.parametrize(
    "name",
    ["plans.pkl", "fold_1/model_final_checkpoint.model.pkl", "fold_0/model_final_checkpoint.model"],
)
def test_a_hostile_pickle_is_refused_by_name_and_not_run(made, tmp_path, name):
    """The payload works without protection; here it is named and does not run."""
    nets, plans, folder = made
    write_v1(folder, nets, plans)
    mark = tmp_path / "was run"
    path = folder / name
    if path.suffix == ".model":
        torch.save({"state_dict": nets[0].state, "epoch": Payload(mark)}, path)
        torch.load(path, weights_only=False)
    else:
        path.write_bytes(pickle.dumps({"plans": plans, "x": Payload(mark)}))
        pickle.loads(path.read_bytes())  # noqa: S301
    assert mark.exists()
    mark.unlink()
    with pytest.raises(BundleUnfit, match=rf"{name} is refused and nothing in it was run.*system"):
        read_v1(folder)
    assert not mark.exists()


def test_a_hostile_second_fold_is_refused_while_sealing(made, tmp_path):
    """Every fold's weights are read with the same care."""
    nets, plans, folder = made
    write_v1(folder, nets, plans)
    mark = tmp_path / "was run"
    torch.save(Payload(mark), folder / "fold_1/model_final_checkpoint.model")
    with pytest.raises(BundleUnfit, match=r"fold_1/model_final_checkpoint.model is refused"):
        seal(read_v1(folder), STATEMENT, tmp_path / "bundle")
    assert not mark.exists()


def damaged(made, change, trainer="nnUNetTrainerV2"):
    """A folder whose plans were changed before they were written."""
    nets, plans, folder = made
    change(plans)
    return write_v1(folder, nets, plans, trainer=trainer)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda p: p.update(num_modalities=2), "2 images"),
        (lambda p: p.update(normalization_schemes={0: "CT2"}), "CT2"),
        (lambda p: p.update(preprocessor_name="Own"), "preprocessor_name 'Own'"),
        (lambda p: p.update(transpose_backward=[1, 2, 0]), "do not undo each other"),
        (lambda p: p.update(all_classes=[1, 2, 4, 7]), r"labels \[1, 2, 4, 7\]"),
        (lambda p: p["plans_per_stage"][0].update(pool_op_kernel_sizes=[[2, 2, 2]]), "plans pool"),
        (lambda p: p.pop("num_classes"), "no v1 training that limn can read"),
        (lambda p: p.update(dataset_properties={"intensityproperties": {0: {}}}), "lack intensity"),
    ],
)
def test_what_limn_cant_do_exactly_is_refused(made, change, complaint):
    """The refusal names the key and the value."""
    with pytest.raises(BundleUnfit, match=complaint):
        read_v1(damaged(made, change))


@pytest.mark.parametrize(
    "trainer",
    ["nnUNetTrainerV2_ReLU", "nnUNetTrainerV2_GN", "nnUNetTrainerV2_ReLU_biasInSegOutput",
     "nnUNetTrainerV2_Mish", "nnUNetTrainerV2_LReLU_slope_2en1", "nnUNetTrainerV2_resample33"],
)  # fmt: skip
def test_trainers_that_compute_otherwise_are_refused(made, trainer):
    """Weights of the same names and shapes would compute something else."""
    with pytest.raises(BundleUnfit, match=trainer):
        read_v1(damaged(made, lambda _: None, trainer))


def test_an_unknown_trainer_is_taken_with_a_note(made):
    """A note names the site's own trainer; noMirroring in its name is respected."""
    trained = read_v1(damaged(made, lambda _: None, "OurTrainer_noMirroring"))
    assert "OurTrainer_noMirroring is none of nnU-Net's own" in trained.notes[0]
    assert trained.mirror_axes == ()


def test_weights_of_another_kind_of_network_are_refused(made):
    """A weight without a place is named."""
    nets, plans, folder = made
    nets[0].state["conv_blocks_context.0.blocks.0.instnorm.running_mean"] = torch.zeros(4)
    with pytest.raises(BundleUnfit, match="running_mean has no place"):
        read_v1(write_v1(folder, nets, plans))


def test_a_missing_weight_is_refused(made, tmp_path):
    """A fold that lacks a weight does not fit its plans."""
    nets, plans, folder = made
    del nets[1].state["seg_outputs.0.weight"]
    with pytest.raises(BundleUnfit, match=r"fold_1 does not fit its plans.*seg_layers"):
        seal(read_v1(write_v1(folder, nets, plans)), STATEMENT, tmp_path / "bundle")


def test_folds_of_different_plans_are_no_ensemble(made):
    """Folds that were planned apart are refused."""
    nets, plans, folder = made
    write_v1(folder, nets, plans)
    path = folder / "fold_1/model_final_checkpoint.model.pkl"
    info = pickle.loads(path.read_bytes())  # noqa: S301
    info["plans"]["plans_per_stage"][0]["current_spacing"] = np.array([0.2, 0.2, 0.2])
    path.write_bytes(pickle.dumps(info))
    with pytest.raises(BundleUnfit, match="fold_1 was planned otherwise than fold_0"):
        read_v1(folder)


def test_every_label_needs_its_own_organ(made, tmp_path):
    """For too few organs, or one that occurs twice, the refusal names the flag."""
    nets, plans, folder = made
    trained = read_v1(write_v1(folder, nets, plans))
    few = BundleStatement(name="m", version="1", organs={1: Organ.HEART}, orientation="SPL")
    with pytest.raises(BundleUnfit, match="--labels"):
        seal(trained, few, tmp_path / "bundle")
    twice = BundleStatement(
        name="m", version="1", organs=ORGANS | {2: Organ.HEART}, orientation="SPL"
    )
    with pytest.raises(BundleUnfit, match="twice"):
        seal(trained, twice, tmp_path / "bundle")
