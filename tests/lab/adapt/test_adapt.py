"""An adaptation the whole way: data set in, sealed bundle and page out."""

import json
import shutil

import nibabel
import numpy as np
import pytest

from limn.cli.main import main
from limn.domain.errors import ConfigWrong
from limn.lab.adapt import page
from limn.lab.adapt.adapt import adapt
from limn.lab.adapt.budget import AdaptOptions
from limn.lab.adapt.site_scans import read_site
from limn.segment.bundle.bundle import open_bundle
from limn.segment.importing.known_answers import check_answers
from tests.support.lab.tiny_site import tiny_bundle, tiny_site

pytestmark = pytest.mark.trains

OPTIONS = AdaptOptions(steps=6, phantoms=1, scored=1, workers=1, name="ours")


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A bundle of three organs that learnt the cord too, what was reported, and its sources."""
    folder = tmp_path_factory.mktemp("adapted")
    data = tiny_site(folder, [["a"], ["b"]], ["d"])
    bundle = tiny_bundle(folder / "bundle", ("Heart", "Lung_R", "Lung_L"))
    lines: list[str] = []
    adapt(bundle, data, folder / "out", OPTIONS, lines.append)
    return folder, lines


def test_the_new_bundle_is_a_proper_one(adapted):
    """Sealed, with known answers, the small networks as they were, and no judge."""
    folder, _ = adapted
    old, new = open_bundle(folder / "bundle"), open_bundle(folder / "out" / "bundle")
    assert new.label == "ours-1"
    assert new.organs == {1: "Heart", 2: "Lung_R", 3: "Lung_L", 4: "SpinalCord"}
    assert check_answers(new).sound
    for name in (new.onlooker, new.localiser):
        assert (new.folder / name).read_bytes() == (old.folder / name).read_bytes()
    assert new.judge is None
    assert new.clean.keys() == set(new.organs.values())
    assert new.roles.keys() == {"heart", "cord", "lung_r", "lung_l"}


def test_the_manifest_says_what_it_learnt_from_and_is_not_for(adapted):
    """Painted animals make a demonstration, whatever the scores."""
    new = open_bundle(adapted[0] / "out" / "bundle")
    assert new.trained_on.startswith("2 scans of 2 digital phantom mice (data: Heart, SpinalCord")
    assert "on from phantom-organs-1: " in new.trained_on
    assert new.not_for == "not for animals: it has never seen one"
    assert new.demonstration
    assert new.protocol["SpinalCord"] == "as the site of data contours it"
    assert "# Measured by limn lab adapt. " in (new.folder / "bundle.toml").read_text()


def test_the_page_has_every_group_the_rule_and_one_sentence(adapted):
    """With the worst scans, drawn thrice."""
    out = adapted[0] / "out"
    text = (out / page.PAGE).read_text()
    for words in (
        "Left-out animals",
        "Test animals",
        "Phantoms",
        "The rule: Use it, if",
        "unknown",
    ):
        assert words in text
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert [
        f"worst-{k}-{what}.png" for k in (1, 2) for what in ("after", "before", "contoured")
    ] == [name for name in pictures if name.startswith("worst")]
    assert all(f"src='{name}'" in text for name in pictures)
    assert "| SpinalCord | 1 | unknown |" in (out / page.TABLE).read_text()


def test_progress_says_when_it_ends(adapted):
    """And what is looked at on the way."""
    lines = adapted[1]
    assert any(
        "2 scans of 2 animals (phantom-a, phantom-b); 1 animals only test" in s for s in lines
    )
    assert any("new organs: SpinalCord" in line for line in lines)
    assert any("all folds end at the latest" in line for line in lines)


def test_a_second_run_learns_and_scores_nothing(adapted):
    """The same bundle and page again; the settings of the first run hold."""
    folder, _ = adapted
    before = (folder / "out" / "bundle" / "bundle.toml").read_bytes()
    lines: list[str] = []
    again = AdaptOptions(workers=1, name="ours")
    adapt(folder / "bundle", folder / "data", folder / "out", again, lines.append)
    assert not any(line.startswith(("fold", "score", "case")) for line in lines)
    assert (folder / "out" / "bundle" / "bundle.toml").read_bytes() == before


def test_a_work_folder_of_another_adaptation_is_refused(adapted):
    """The text names what differs."""
    folder, _ = adapted
    other = AdaptOptions(steps=7, workers=1, name="ours")
    with pytest.raises(ConfigWrong, match=r"belongs to another adaptation: steps was 6, is 7"):
        adapt(folder / "bundle", folder / "data", folder / "out", other, print)


def test_contours_that_were_mended_meanwhile_are_another_adaptation(adapted, tmp_path):
    """The CT's hash alone would let a second run go on with what was wrong."""
    folder, _ = adapted
    shutil.copytree(folder / "data", tmp_path / "data")
    scan = read_site(tmp_path / "data", None).teaching[0]
    image = nibabel.load(scan.contours)
    voxels = np.asarray(image.dataobj).astype(np.uint8)
    voxels[voxels == 1] *= np.arange((voxels == 1).sum()) % 2 == 0
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), scan.contours)
    again = AdaptOptions(workers=1, name="ours")
    with pytest.raises(ConfigWrong, match=r"belongs to another adaptation: contours was"):
        adapt(folder / "bundle", tmp_path / "data", folder / "out", again, print)


def test_each_animal_is_scored_by_a_fold_that_left_it_out(adapted):
    """Animal a by fold 0, animal b by fold 1, the one that tests by both."""
    scores = adapted[0] / "out" / "work" / "scores" / "after"
    names = sorted(path.stem for path in scores.glob("*.json"))
    assert names == [
        "left-out animals phantom-a-d0",
        "left-out animals phantom-b-d0",
        "phantoms 630000",
        "test animals phantom-d-d0",
    ]
    rows = json.loads((scores / f"{names[0]}.json").read_text())
    assert {row["organ"] for row in rows} == {"Heart", "SpinalCord", "Lung_R", "Lung_L"}


def test_the_command_names_what_is_wrong(tmp_path, capsys):
    """One line, before any work."""
    bundle = tiny_bundle(tmp_path / "bundle")
    assert main(["lab", "adapt", str(bundle), str(tmp_path / "none"), str(tmp_path / "out")]) == 1
    assert "make it with limn lab import" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
