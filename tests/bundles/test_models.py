import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from limn.cli import main
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Volume
from limn.domain.shipped import models_dir
from limn.phantom.anatomy import conceive
from limn.phantom.scanner import Scanner, scan
from limn.segment.bundle.bundle import open_bundle, write_manifest
from limn.segment.bundle.sample import read_sample
from limn.segment.engine import half
from limn.segment.engine.plans import read_plan
from limn.segment.importing import axis_search
from limn.segment.importing.known_answers import ANSWERS_FILE
from tests.conftest import BUNDLE
from tests.support.organs import Organ
from tests.support.segment.v1_format import Net, plans_of, write_v1

LABELS = "1=Heart,2=SpinalCord,3=Lung_R,4=Lung_L"
TASK = "nnUNet/3d_fullres/Task501_Mouse/nnUNetTrainerV2__nnUNetPlansv2.1"


@pytest.fixture
def v1(tmp_path):
    """A v1 result folder of two folds."""
    nets = [Net([[3, 3, 3]] * 3, [[2, 2, 2]] * 2, seed=fold) for fold in range(2)]
    return write_v1(tmp_path / "results" / TASK, nets, plans_of(nets[0], (16, 16, 24)))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run limn models with its own folder of bundles and without a terminal."""
    monkeypatch.setenv("LIMN_MODELS", str(tmp_path / "shelf"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        code = main.main(["models", *map(str, arguments)])
        streams = capsys.readouterr()
        return code, streams.out + streams.err

    return run


def test_a_v1_folder_comes_in_and_is_used_like_any_other(run, v1, tmp_path):
    """It is imported, listed and verified, and the line of the config is printed."""
    code, output = run("import", v1, "--labels", LABELS, "--orientation", "ipr", "--name", "mouse")
    assert code == 0, output
    assert f'below [model]: bundle = "{tmp_path / "shelf" / "mouse-1"}"' in output
    bundle = open_bundle(tmp_path / "shelf/mouse-1")
    assert bundle.orientation == "IPR"
    assert read_sample(bundle, read_plan(bundle).patch).truth.any()
    # Heart and lungs are named: the small networks for the chest come along.
    assert "onlooker and localiser of the embedded bundle were added" in output
    assert bundle.localiser is not None
    # A verdict on this processor, which no list of bundles shows.
    assert "int8 is " in output
    assert len(list((tmp_path / "shelf" / ".int8").iterdir())) == 1
    assert [found.name for found in (tmp_path / "shelf").glob("[!.]*")] == ["mouse-1"]
    code, output = run("list")
    assert code == 0
    assert "mouse-1" in output
    assert "phantom-7 (demonstration)" in output
    code, output = run("verify", "mouse-1")
    assert code == 0
    assert "2 folds answer as recorded, max |difference| 0" in output


def test_a_zip_of_a_whole_results_folder_comes_in(run, v1, tmp_path):
    """The zip is packed like v1's own export; the bundle names the archive's hash."""
    root = tmp_path / "results"
    with zipfile.ZipFile(tmp_path / "task.zip", "w") as packed:
        for path in root.rglob("*"):
            packed.write(path, path.relative_to(root))
        packed.writestr(f"{TASK}/fold_0/validation/case.nii.gz", b"not wanted")
    code, output = run("import", tmp_path / "task.zip", "--labels", LABELS, "--orientation", "SPL")
    assert code == 0, output
    bundle = open_bundle(tmp_path / "shelf/task501-mouse-3d-fullres-1")
    assert "from task.zip, sha256" in bundle.source


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda own: own["configurations"]["3d_fullres"].update(patch_size=[81, 64, 80]),
            "divided",
        ),
        (
            lambda own: own["configurations"]["3d_fullres"].update(spacing=[0.2, 1e999, 0.2]),
            "spacing",
        ),
        (lambda own: own.update(transpose_backward=[1, 0, 2]), "does not undo"),
        (lambda own: _intensities(own).update(mean=None), "plans.json is not usable"),
        (lambda own: _intensities(own).update(std=float("nan")), "std of the intensities is nan"),
    ],
)
def test_plans_that_no_engine_runs_are_not_installed(run, tmp_path, change, complaint):
    """The value is named before the bundle is installed."""
    training = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    shutil.copytree(BUNDLE, training, ignore=shutil.ignore_patterns("bundle.toml", "fold_[1-4]"))
    plans = json.loads((training / "plans.json").read_text())
    change(plans)
    (training / "plans.json").write_text(json.dumps(plans))
    code, output = run("import", training, "--orientation", "SPL", "--name", "odd")
    assert code == 1, output
    assert complaint in output
    assert [path.name for path in (tmp_path / "shelf").iterdir()] == []


def _intensities(plans):
    return plans["foreground_intensity_properties_per_channel"]["0"]


def test_what_is_a_bundle_is_sent_to_install(run):
    """The message names limn models install; the embedded bundle is verified by its listed name."""
    code, output = run("import", BUNDLE, "--orientation", "SPL")
    assert code == 1
    assert f"is a bundle already: limn models install {BUNDLE}" in " ".join(output.split())
    code, output = run("verify", BUNDLE.name)
    assert code == 0, output


def test_foreign_words_are_no_markup(run, tmp_path):
    """The name of a folder may have brackets."""
    odd = tmp_path / "mice[" / "red]"
    odd.mkdir(parents=True)
    code, output = run("verify", odd)
    assert code == 1
    assert "mice[/red]" in output


@pytest.mark.parametrize("seed", [3, 4, 9])
def test_the_chest_is_found_beside_a_bed(seed):
    """A bed of foam is darker than lung and larger; a neighbour has lungs as well."""
    field = Scanner(SpacingMm(0.28, 0.28, 0.28), (144, 104, 112))
    volume, truth = scan(conceive(seed, neighbour=seed == 4), field, seed)
    lungs = np.argwhere(np.isin(truth.labels_zyx, (3, 4))).mean(axis=0)
    assert np.abs(np.array(axis_search._middle(volume)) - lungs).max() * 0.28 < 2.0


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        ([], "--labels"),
        (["--labels", LABELS], "--orientation SPL"),
        (["--labels", "1=Heart,2=a lung"], "'2=a lung' is not of the form 1=ORGAN"),
        (["--labels", LABELS, "--orientation", "SPX"], "as in SPL"),
        (["--labels", LABELS, "--orientation", "SPL", "--configuration", "2d"], "says 2d"),
        (["--labels", LABELS, "--orientation", "SPL", "--check", "/nowhere"], "is no folder"),
    ],
)
def test_what_is_not_given_is_refused_with_the_flag_to_give(run, v1, tmp_path, given, flag):
    """Without a terminal nothing is guessed and no file is left."""
    code, output = run("import", v1, *given)
    assert code == 1
    assert flag in output
    assert list((tmp_path / "shelf").iterdir()) == []


def test_on_a_terminal_a_person_is_asked(run, v1, tmp_path, monkeypatch):
    """The terminal asks for labels and axes that are not given."""
    answers = iter([LABELS, "spl"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    code, output = run("import", v1, "--name", "prompted")
    assert code == 0, output
    assert open_bundle(tmp_path / "shelf/prompted-1").orientation == "SPL"


def test_an_import_overwrites_nothing(run, v1, monkeypatch):
    """The same name and version again is refused, before anything is tried or sealed."""
    given = ["import", v1, "--labels", LABELS, "--orientation", "SPL", "--name", "mouse"]
    assert run(*given)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr("limn.bundles.importing._seal", pytest.fail)
        code, output = run(*given)
    assert code == 1
    assert "Give another --name or --version" in output
    assert run(*given, "--version", "2")[0] == 0


def test_of_several_trainings_one_is_chosen(run, v1, tmp_path):
    """A results folder with two configurations lists them and takes --configuration."""
    net = Net([[3, 3]] * 3, [[2, 2]] * 2)
    other = tmp_path / "results" / TASK.replace("3d_fullres", "2d")
    write_v1(other, [net], plans_of(net, (16, 24), preprocessor="PreprocessorFor2D"))
    given = ["import", tmp_path / "results", "--labels", LABELS, "--orientation", "SPL"]
    code, output = run(*given)
    assert code == 1
    assert "holds 2 models; choose one by --configuration" in output
    assert run(*given, "--configuration", "2d", "--name", "flat")[0] == 0
    assert open_bundle(tmp_path / "shelf/flat-1").configuration == "2d"


def test_packed_here_installed_there(run, v1, tmp_path):
    """A result folder becomes one zip, which another site installs."""
    archive = tmp_path / "mouse.zip"
    code, output = run("pack", v1, "-o", archive, "--labels", LABELS, "--orientation", "SPL")
    assert code == 0, output
    assert run("install", archive)[0] == 0
    assert run("verify", "task501-mouse-3d-fullres-1")[0] == 0
    code, output = run("install", v1)
    assert code == 1
    assert "limn models import" in output


def test_networks_that_answer_otherwise_are_found(run, v1, tmp_path):
    """Answers that differ from the record fail, although every hash is right."""
    run("import", v1, "--labels", LABELS, "--orientation", "SPL", "--name", "mouse")
    folder = tmp_path / "shelf/mouse-1"
    recorded = json.loads((folder / ANSWERS_FILE).read_text())
    recorded["folds"][1][0][0] += 1.0
    (folder / ANSWERS_FILE).write_text(json.dumps(recorded))
    manifest = (folder / "bundle.toml").read_text().split("\n[files]\n")[0]
    (folder / "bundle.toml").unlink()
    write_manifest(folder, manifest)
    code, output = run("verify", "mouse-1")
    assert code == 1
    assert "answer otherwise than recorded" in output


def test_a_cascade_says_that_it_cant_run(run, tmp_path):
    """It is converted and sealed, and one line says what the engine lacks."""
    net = Net([[3, 3, 3]] * 3, [[2, 2, 2]] * 2, channels=5)
    plans = plans_of(net, (16, 16, 24), stages=2)
    folder = write_v1(
        tmp_path / "v1", [net], plans, stage=1, trainer="nnUNetTrainerV2CascadeFullRes"
    )
    code, output = run(
        "import", folder, "--labels", LABELS, "--orientation", "SPL", "--name", "c",
        "--previous", "low-1",
    )  # fmt: skip
    assert code == 0
    assert "takes the labels of low-1, which limn's engine does not feed in" in output
    assert open_bundle(tmp_path / "shelf/c-1").previous == "low-1"


class Drawn(torch.nn.Module):
    """Labels the organs of a made-up mouse by their HU."""

    def __init__(self, right_way):
        super().__init__()
        self.right_way = right_way

    def forward(self, patch):
        """Give high logits if the patch lies like those of the training, else low ones."""
        values = torch.tensor(list(KINDS.values()))
        nearest = (patch[:, 0, ..., None] - values).abs().argmin(-1)
        logits = torch.nn.functional.one_hot(nearest, 5).movedim(-1, 1).float()
        half = patch.shape[2] // 2
        # The marks show it: in this mouse only the first half has any.
        right = bool((patch[:, :, :half] == MARK).sum() > (patch[:, :, half:] == MARK).sum())
        return logits * (20.0 if right == self.right_way else 2.0)


KINDS = {"tissue": 0.0, "heart": 300.0, "cord": 600.0, "lung_r": -500.0, "lung_l": -600.0}
MARK = 50.0


def mouse():
    """Boxes with a mouse's volumes, axes S, P, L, 0.5 mm."""
    hu = np.zeros((44, 44, 44), np.float32)
    hu[:4] = MARK
    hu[14:30, 8:20, 18:30] = KINDS["heart"]
    hu[8:36, 34:37, 21:24] = KINDS["cord"]
    hu[12:32, 12:32, 4:16] = KINDS["lung_r"]
    hu[12:32, 14:30, 32:42] = KINDS["lung_l"]
    return Volume(hu, axial_grid(hu.shape, SpacingMm(0.5, 0.5, 0.5), np.zeros(3)))


def test_every_way_is_tried_and_the_right_one_is_best(monkeypatch):
    """A network that is certain only for patches that begin with the marks decides."""
    bundle = open_bundle(BUNDLE)
    plan = axis_search._Plan(
        (44, 44, 44), (0.5, 0.5, 0.5), (0, 1, 2), (0, 1, 2), "NoNormalization", {"mean": 0.0}
    )
    monkeypatch.setattr(axis_search, "_load", lambda *_: (plan, Drawn(right_way=True)))
    monkeypatch.setattr(half, "has_bf16", lambda device: False)
    counted = []
    trials = axis_search.search_axes(
        bundle, mouse(), lambda done, total: counted.append((done, total))
    )
    assert len(trials) == len({trial.letters for trial in trials}) == 48
    assert counted[-1] == (48 + 4 * 4, 48 + 4 * 4)
    assert all(trial.letters[0] == "S" for trial in trials[:8])
    best = trials[0]
    assert best.plausible
    assert best.volumes_mm3[Organ.HEART] == pytest.approx(16 * 12 * 12 / 8)
    assert best.volumes_mm3[Organ.LUNG_R] == pytest.approx(20 * 20 * 12 / 8)
    assert sum(trial.mirrored for trial in trials) == 24


def test_the_models_folder_is_the_users(monkeypatch):
    """The given folder, else that of the environment, else one in the user's home."""
    monkeypatch.delenv("LIMN_MODELS", raising=False)
    assert models_dir(None) == Path.home() / ".local/share/limn/models"
    monkeypatch.setenv("LIMN_MODELS", "/srv/models")
    assert models_dir(None) == Path("/srv/models")
    assert models_dir(Path("here")) == Path("here")
