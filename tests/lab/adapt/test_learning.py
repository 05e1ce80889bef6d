"""What a fold learns from: cases on the networks' grid, patches, and a loss for missing truths."""

import shutil
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch

from limn.domain.errors import ConfigWrong
from limn.domain.scan import Organ, Role
from limn.lab.adapt.adapt import fold_jobs
from limn.lab.adapt.cases import make_cases, overlaps, read_learning_case, shares_of
from limn.lab.adapt.fold import train_fold
from limn.lab.adapt.patches import draw_learning_patch, marginal_loss
from limn.lab.adapt.settings import AdaptSettings
from limn.lab.adapt.site_scans import read_site, refuse_spacing
from limn.lab.adapt.start import learning_network, refuse_other_names, start_from, widened
from limn.lab.data.dataset import MANIFEST
from limn.lab.train import folds as train_folds
from limn.phantom.anatomy import TRUTH_LABELS
from limn.segment.bundle.bundle import open_bundle, write_manifest
from tests.support.lab.tiny_site import tiny_bundle, tiny_site

pytestmark = pytest.mark.trains

THREE = ("Heart", "Lung_R", "Lung_L")
SETTINGS = AdaptSettings(steps=12, phantoms=1, phantoms_watched=1, phantoms_scored=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three animals that teach, one that tests."""
    return tiny_site(tmp_path_factory.mktemp("site"), [["a"], ["b"], ["c"]], ["d"])


@pytest.fixture(scope="module")
def start(tmp_path_factory, data):
    """A bundle without the cord, which the data have."""
    folder = tiny_bundle(tmp_path_factory.mktemp("bundle"), THREE)
    return start_from(folder, read_site(data, None).organs)


@pytest.fixture(scope="module")
def work(tmp_path_factory, data, start):
    """A work folder with all cases."""
    folder = tmp_path_factory.mktemp("work")
    site = read_site(data, None)
    seeds = [600_000, 620_000]
    make_cases(site.teaching, seeds, start, folder / "cases", 1, lambda line: None)
    return folder


def random_outputs(classes):
    """Logits of two heads, and shares that add up to one."""
    torch.manual_seed(1)
    outputs = [torch.randn(1, classes, n, n, n) for n in (8, 4)]
    target = torch.softmax(3 * torch.randn(1, classes, 8, 8, 8), dim=1)
    return outputs, target


def test_with_every_truth_the_loss_is_that_of_the_embedded_bundle():
    """Cross-entropy plus soft Dice over the heads."""
    outputs, target = random_outputs(4)
    ours = marginal_loss(outputs, target, [True] * 3)
    assert float(ours) == pytest.approx(float(train_folds._loss(outputs, target)), abs=1e-5)


def test_an_organ_that_nobody_contoured_is_neither_rewarded_nor_punished():
    """To call background by its name costs nothing, and gains nothing."""
    outputs, target = random_outputs(3)
    target[:, 0] += target[:, 2]
    target[:, 2] = 0.0
    loss = marginal_loss(outputs, target, [True, False])
    for moved in (-3.0, 3.0):
        changed = []
        for output in outputs:
            both = torch.logsumexp(output[:, [0, 2]], 1)
            unknown = output[:, 2] + moved
            rest = both + torch.log1p(-torch.exp(torch.clamp(unknown - both, max=-1e-4)))
            fits = unknown < both
            kept = torch.where(fits, rest, output[:, 0]), output[:, 1]
            changed.append(torch.stack([*kept, torch.where(fits, unknown, output[:, 2])], 1))
        again = marginal_loss(changed, target, [True, False])
        assert float(again) == pytest.approx(float(loss), abs=1e-3)
    assert float(marginal_loss(outputs, target, [True, True])) > float(loss) + 0.05


def test_a_new_organ_has_a_row_and_the_others_answer_as_before(start):
    """The rows of known organs are untouched; the new one is a little less likely than nothing."""
    assert start.organs == {1: "Heart", 2: "Lung_R", 3: "Lung_L", 4: "SpinalCord"}
    kept = torch.load(start.bundle.checkpoint(0), weights_only=True)["network_weights"]
    wide = widened({name: own.float() for name, own in kept.items()}, 1)
    bias = next(name for name in wide if name.endswith("seg_layers.0.bias"))
    assert len(wide[bias]) == 5
    assert torch.equal(wide[bias][:4], kept[bias].float())
    network = learning_network(start, 0)
    with torch.no_grad():
        logits = network(torch.randn(1, 1, 24, 16, 16))[0]
    assert torch.allclose(logits[:, 4], logits[:, 0] - 1.0, atol=1e-4)


def test_shares_keep_the_volume():
    """On a coarser, a finer and an odd grid: the share of each voxel that the organ fills."""
    rng = np.random.default_rng(5)
    mask = np.zeros((13, 12, 17), dtype=np.bool_)
    mask[3:9, 2:10, 4:15] = rng.random((6, 8, 11)) < 0.6
    for shape in ((5, 4, 6), (26, 24, 34), (13, 12, 17)):
        shares = shares_of(mask, shape)
        assert shares.mean() / 255.0 == pytest.approx(mask.mean(), abs=0.002)
    assert np.array_equal(shares >= 128, mask)
    assert np.allclose(overlaps(7, 3).sum(axis=1), 1.0)


def test_a_case_and_its_patches_know_what_is_contoured(work, start):
    """A scan of the site knows its organs; patches have the plan's size, also of small cases."""
    case = read_learning_case("phantom-a-d0", work / "cases")
    assert case.known == (True,) * 4
    assert all(n >= p for n, p in zip(case.hu.shape, start.plan.patch, strict=True))
    partly = replace(case, known=(True, True, True, False))
    patch = draw_learning_patch(
        np.random.default_rng(0), [partly], [], 1.0, start.plan, start.spacing_mm
    )
    assert patch.image.shape == start.plan.patch
    assert patch.classes.shape == (5, *start.plan.patch)
    assert np.allclose(patch.classes.sum(axis=0), 1.0, atol=0.02)
    assert patch.known == (True, True, True, False)


def test_no_fold_learns_from_the_animals_that_it_leaves_out(data, start, tmp_path):
    """Groups take turns; each fold learns from all others, and animals that test from nobody."""
    site = read_site(data, None)
    jobs = fold_jobs(start, site, SETTINGS, tmp_path, 1, {})
    left_out = [{scan.animal for scan in job.left_out} for job in jobs]
    assert left_out == [{"phantom-a"}, {"phantom-b"}]
    for job, own in zip(jobs, left_out, strict=True):
        learning = {scan.animal for scan in job.learning}
        assert learning | own == {"phantom-a", "phantom-b", "phantom-c"}
        assert not learning & own


def test_a_group_without_contours_is_none(data, start, tmp_path):
    """Its number goes to the next group, so that each fold still leaves one out."""
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    (bare,) = (scan for scan in read_site(folder, None).teaching if scan.animal == "phantom-b")
    empty = nibabel.load(bare.contours)
    voxels = np.zeros(empty.shape, np.uint8)
    nibabel.save(nibabel.Nifti1Image(voxels, empty.affine), bare.contours)
    jobs = fold_jobs(start, read_site(folder, None), SETTINGS, tmp_path, 1, {})
    left_out = [[scan.animal for scan in job.left_out] for job in jobs]
    assert left_out == [["phantom-a"], ["phantom-c"]]


class KilledError(Exception):
    """Stands for a kill."""


def test_a_killed_fold_ends_with_the_same_weights(data, start, work, tmp_path):
    """Killed after a look and between two: bit by bit what an uninterrupted fold gives."""
    (straight, *_) = jobs_in(data, start, work, tmp_path / "straight")
    (killed, *_) = jobs_in(data, start, work, tmp_path / "killed")
    lines: list[str] = []
    train_fold(straight, lines.append)
    assert "step 12/12" in lines[-1]

    def kill(line):
        if "step 5/12" in line:
            raise KilledError

    with pytest.raises(KilledError):
        train_fold(killed, kill)
    # Killed when the checkpoint of the next look was written, and its look was not.
    train_fold(killed, lambda line: None)
    looks = killed.looks.path.read_text().splitlines()
    killed.looks.path.write_text("\n".join(looks[:-1]) + "\n")
    train_fold(killed, lambda line: None)
    weights = [torch.load(job.best_weights, weights_only=True) for job in (straight, killed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert straight.looks.taken == killed.looks.taken


def jobs_in(data, start, work, folder):
    """The folds of a work folder with the cases of another."""
    folder.mkdir()
    (folder / "cases").symlink_to(work / "cases")
    return fold_jobs(start, read_site(data, None), SETTINGS, folder, 2, {"of": "test"})


def test_what_can_not_teach_is_refused(data, start, tmp_path):
    """Organs that nobody contoured, voxels far off, one animal, an animal on two sides."""
    with pytest.raises(ConfigWrong, match=r"no scan that teaches has contours of Liver; it has"):
        read_site(data, (Organ("Liver"),))
    with pytest.raises(
        ConfigWrong, match=r"voxels of 0\.8 x 0\.8 x 0\.8 mm, the bundle's are 0\.2"
    ):
        refuse_spacing(read_site(data, None), (0.2, 0.2, 0.2))
    table = (data / MANIFEST).read_text().splitlines()
    leak = tmp_path / "leak"
    leak.mkdir()
    row = table[1].split(",")
    twice = ",".join([f"{row[0]}x", row[1], *row[2:4], "test1", "", *row[6:]])
    (leak / MANIFEST).write_text("\n".join([*table, twice]) + "\n")
    with pytest.raises(ConfigWrong, match=r"animal phantom-a is in"):
        read_site(leak, None)
    alone = [table[0], table[1], *(line for line in table if ",test1," in line)]
    (leak / MANIFEST).write_text("\n".join(alone) + "\n")
    (leak / "scans").symlink_to(data / "scans")
    with pytest.raises(ConfigWrong, match=r"1 contoured animals teach.*import again with --split"):
        read_site(leak, None)


def test_an_organ_under_another_name_is_refused(start):
    """By its role, or by its letters: it would become a second organ at the same place."""
    roles = {Role.HEART: Organ("Cor")}
    with pytest.raises(ConfigWrong, match=r"calls Cor what bundle .* calls Heart.*--organs"):
        refuse_other_names(start.bundle, [Organ("Cor")], roles)
    with pytest.raises(ConfigWrong, match=r"calls lung_r what bundle .* calls Lung_R"):
        refuse_other_names(start.bundle, [Organ("lung_r")], {})
    refuse_other_names(start.bundle, [Organ("Heart"), Organ("Liver")], {Role.HEART: Organ("Heart")})


def test_a_bundle_that_can_not_go_on_says_why(tmp_path):
    """A cascade, a network whose heads are missing, an organ that nobody could teach."""
    folder = tiny_bundle(tmp_path / "bundle", THREE)
    head = (folder / "bundle.toml").read_text().split("\n[files]\n")[0]
    write_manifest(folder, head.replace("profile =", 'previous = "3d_lowres"\nprofile ='))
    with pytest.raises(ConfigWrong, match="can't go on: it is the second stage of a cascade"):
        start_from(folder, [])
    named = head.replace("Lung_R", "Thymus")
    (folder / "dataset.json").write_text(
        (folder / "dataset.json").read_text().replace("Lung_R", "Thymus")
    )
    write_manifest(folder, named)
    with pytest.raises(ConfigWrong, match=r"knows Thymus, which neither.*it would be forgotten"):
        start_from(folder, list(TRUTH_LABELS.values()))
    assert start_from(folder, [Organ("Thymus")]).bundle == open_bundle(folder)
    path = folder / "fold_0" / "checkpoint_final.pth"
    kept = torch.load(path, weights_only=True)
    for name in [name for name in kept["network_weights"] if "seg_layers.0" in name]:
        del kept["network_weights"][name]
    torch.save(kept, path)
    write_manifest(folder, named)
    with pytest.raises(ConfigWrong, match=r"can't go on: its network can't learn.*seg_layers\.0"):
        start_from(folder, [Organ("Thymus")])
