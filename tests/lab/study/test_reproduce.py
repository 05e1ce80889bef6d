"""A small study with the real nnunetv2: killed, started again, and its tables."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from limn.cli import main
from limn.domain.errors import ConfigWrong, StageFailed
from limn.lab.data.dataset import Entry
from limn.lab.measure.scores import read_scores
from limn.lab.study.config import read_study
from limn.lab.study.reproduce import described, reproduce
from limn.lab.study.run import Device, carry_out, devices
from limn.lab.study.steps import Step
from limn.lab.systems.nnunet_plans import configuration_of
from limn.lab.words import TIMES
from limn.segment.bundle.bundle import open_bundle
from tests.conftest import REPOSITORY
from tests.lab.data.test_dataset import drawn as small_animal
from tests.lab.data.test_dataset import hu, nifti
from tests.support.lab.made_up_steps import be_killed, end_badly, end_well, leave_a_child
from tests.support.lab.small_study import AIMOS, FULLRES, HEAD, SPLIT, WHOLE, started, written

pytestmark = pytest.mark.slow

CPU = (Device("", "CPU"),)
FORKED = "tests.support.lab.forked_study"


def drawn(path, system):
    """Scores without the times, which differ between runs; as text, for NaN equals NaN there."""
    scores = read_scores(path)
    return [str(own) for own in scores if own.system == system and own.measure not in TIMES]


def by_nnunetv2(out, system, scan, folder):
    """Labels (z, y, x) of a scan by nnunetv2's own loader, preprocessing and predictor."""
    (trained,) = (out / "nnunet" / "nnUNet_results").glob(f"*/*__{configuration_of(system)}")
    shutil.copytree(trained, folder)
    for path in folder.glob("fold_*/checkpoint_final.pth"):
        kept = torch.load(path, weights_only=False)
        # nnunetv2 finds trainers by name in its own package, and needs only the network.
        torch.save(kept | {"trainer_name": "nnUNetTrainer"}, path)
    predictor = nnUNetPredictor(
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=(0, 1))
    image, properties = SimpleITKIO().read_images([str(out / "data/scans" / scan / "ct.nii.gz")])
    before = None
    if system == "3d_cascade":
        path = out / "predicted" / "3d_lowres" / f"{scan}.nii.gz"
        before, _ = SimpleITKIO().read_seg(str(path))
    return predictor.predict_single_npy_array(image, properties, before, None, False)


@pytest.mark.trains
@pytest.mark.timeout(1200)
def test_a_killed_study_ends_with_the_tables_of_one_that_ran_through(tmp_path, monkeypatch):
    """All five systems, killed in the first folds; two are compared with an uninterrupted run.

    The steps of the first are forks. Those of the other are fresh interpreters, as users have them.
    Takes two minutes: 18 steps, most of which train or use a network, and six that import torch.
    """
    config, out = written(tmp_path / "whole", WHOLE), tmp_path / "out"
    process = started(config, out, FORKED)
    latest = "nnunet/nnUNet_results/*/*/fold_1/checkpoint_latest.pth"
    deadline = time.monotonic() + 500
    while not list(out.glob(latest)) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert not (out / "results").exists()

    process = started(config, out, FORKED)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert re.search(r"^[1-9] of 18 steps were done before", output, re.MULTILINE)
    results = out / "results"
    names = {path.name for path in results.iterdir()}
    wanted = {"table1.csv", "table2.tex", "table3.csv", "table4.csv", "tables.md", "steps.csv"}
    assert wanted <= names
    assert {f"overlay-{name}.png" for name in ("test1-best", "test2-best")} <= names
    rows = (results / "table4.csv").read_text(encoding="utf-8")
    assert all(word in rows for word in ("3d_cascade", "UNet-768", "engine", "one biologist"))
    text = (results / "tables.md").read_text(encoding="utf-8")
    assert "in seconds a scan, all systems on one machine (" in text
    assert "AIMOS | UNet-768, rebuilt | here" in text
    assert "Trained on 2 scans of 2 animals in 2 folds (the paper: 105 scans of 15 animals" in text
    assert "every second patch around an organ, no mirror images; 2 epochs of 3" in text
    systems = {own.system for own in read_scores(results / "scores.csv")}
    assert systems == {
        "3d_fullres", "3d_lowres", "3d_cascade", "2d", "aimos", "limn", "observers",
    }  # fmt: skip
    bundle = open_bundle(out / "bundle")
    assert bundle.demonstration
    assert bundle.trained_on.startswith("2 scans of 2 digital phantom mice and no animal")

    for system in ("3d_fullres", "3d_lowres", "3d_cascade", "2d"):
        ours = out / "predicted" / system / "contrast-00-t0.nii.gz"
        theirs = by_nnunetv2(out, system, "contrast-00-t0", tmp_path / system)
        np.testing.assert_array_equal(SimpleITKIO().read_seg(str(ours))[0][0], theirs)

    other = tmp_path / "other_out"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Each process of a pool imports nnunetv2 anew; the pools of the first study have two.
    monkeypatch.setattr("limn.lab.systems.nnunet.cores", lambda: 1)
    reproduce(written(tmp_path / "one", HEAD + FULLRES), other, None, lambda line: None)
    for system in ("3d_fullres", "limn", "observers"):
        assert drawn(other / "scores.csv", system) == drawn(out / "scores.csv", system)

    with pytest.raises(ConfigWrong, match="belongs to a study with another nnunet"):
        reproduce(
            written(tmp_path / "other", HEAD + FULLRES.replace("epochs = 2", "epochs = 3")),
            other,
            None,
            lambda line: None,
        )


def test_a_study_is_compared_with_the_papers(tmp_path):
    """Counts, and differences of the split and of the systems."""
    empty = dict.fromkeys(Entry.__dataclass_fields__, "") | {"spacing_mm": "0.7 0.7 0.7"}
    entries = [
        Entry(**empty | {"animal": "a", "split": "train", "fold": "0", "contrast": "yes"}),
        Entry(**empty | {"animal": "b", "split": "train", "fold": "1", "contrast": "no"}),
        Entry(**empty | {"animal": "c", "split": "test2", "contrast": "yes"}),
    ]
    config = read_study(written(tmp_path / "one", HEAD + FULLRES + AIMOS))
    text = described(config, entries)
    assert "test set 2: 1 scans of 1 animals (35 of 8). Voxels" in text
    assert "- Unlike the paper: contrast-enhanced animals train, in the paper none did: a." in text
    assert "No system is shown mirror images when it predicts" in text
    assert "aimos, rebuilt: 6 steps" in text
    assert "averages the folds' logits" in text
    assert "slices turned" not in text
    square = described(read_study(written(tmp_path / "two", WHOLE)), entries)
    assert "patch 32 x 32 at 0.7 mm, 4 to 16 features, slices turned by up to 180" in square
    assert "Phantoms" not in text


def test_a_step_that_fails_stops_only_those_that_depend_on_it(tmp_path):
    """The other steps are done, the log is named, and a second start does the rest."""
    lines = []
    steps = [
        Step("bad", end_badly, (), 1.0),
        Step("after bad", end_well, (tmp_path / "never",), 1.0, after=("bad",)),
        Step("good", end_well, (tmp_path / "good",), 1.0),
        Step("after good", end_well, (tmp_path / "later",), 1.0, after=("good",)),
    ]
    with pytest.raises(StageFailed, match=r"bad: ValueError: no such luck \(.*bad.txt\)"):
        carry_out(steps, tmp_path, CPU, lines.append)
    assert (tmp_path / "later").exists()
    assert not (tmp_path / "never").exists()
    assert "wrote it" in (tmp_path / "logs" / "good.txt").read_text(encoding="utf-8")

    mended = [Step("bad", end_well, (tmp_path / "bad",), 1.0), *steps[1:]]
    lines.clear()
    carry_out(mended, tmp_path, CPU, lines.append)
    assert (tmp_path / "never").exists()
    assert lines[0] == "2 of 4 steps were done before"


def test_several_devices_have_a_step_each(tmp_path):
    """Two made-up GPUs: every step sees one of them, and both are used."""
    steps = [Step(f"step {k}", end_well, (tmp_path / str(k),), 1.0) for k in range(4)]
    found = (Device("2", "made up 2"), Device("GPU-5ad0", "made up 3"))
    carry_out(steps, tmp_path, found, lambda line: None)
    seen = {(tmp_path / str(k)).read_text(encoding="utf-8") for k in range(4)}
    assert seen == {"2", "GPU-5ad0"}
    done = [json.loads(path.read_text("utf-8")) for path in (tmp_path / "done").iterdir()]
    assert {own["device"] for own in done} == {"made up 2", "made up 3"}


@pytest.mark.parametrize(
    ("given", "count", "names"),
    [(None, 2, ["0", "1"]), ("2, GPU-5ad0", 2, ["2", "GPU-5ad0"]), ("1,-1,0", 1, ["1"])],
)
def test_only_gpus_that_we_were_given_are_used(monkeypatch, given, count, names):
    """Their names are those of CUDA_VISIBLE_DEVICES, in the order in which torch counts them."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda k: f"H100 of place {k}")
    found = devices()
    assert [own.visible for own in found] == names
    assert found[0].name == f"GPU {names[0]} H100 of place 0"


def is_alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid):
    """Fail if a process still runs after some seconds."""
    deadline = time.monotonic() + 10
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} outlived its step"
        time.sleep(0.05)


def test_nothing_outlives_a_step_that_failed(tmp_path):
    """The child processes of a step end with it."""
    noted = tmp_path / "pid"
    with pytest.raises(StageFailed, match="MemoryError: no room"):
        carry_out([Step("one", leave_a_child, (noted,), 1.0)], tmp_path, CPU, lambda line: None)
    wait_until_gone(int(noted.read_text("utf-8")))


def test_nothing_outlives_a_study_that_was_killed(tmp_path):
    """SIGKILL leaves the study no time to end its steps; they watch their parent."""
    noted = tmp_path / "pid"
    script = (
        "from pathlib import Path\nfrom limn.lab.process.isolated import run_isolated\n"
        "from tests.support.lab.made_up_steps import start_a_child_and_wait\n"
        f"work, log = Path({str(noted)!r}), Path({str(tmp_path / 'log')!r})\n"
        "run_isolated(start_a_child_and_wait, (work,), log, {})"
    )
    study = subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY)
    deadline = time.monotonic() + 60
    while not noted.exists() or not noted.read_text("utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    study.kill()
    study.wait()
    wait_until_gone(int(noted.read_text("utf-8")))


def test_a_step_that_was_killed_says_so(tmp_path):
    """The message has the signal, not the last line of the log."""
    with pytest.raises(StageFailed, match=r"one: ended by SIGKILL \(out of memory\?\) \(.*one.txt"):
        carry_out([Step("one", be_killed, (), 1.0)], tmp_path, CPU, lambda line: None)


LAYOUT = """
[native]
ct = "{animal}/{time}/ct.nii.gz"
axes = "SAR"
[native.observer1]
files = "{animal}/{time}/drawn.nii.gz"
axes = "SAR"
labels = { Heart = 1, SpinalCord = 2, Lung_R = 3, Lung_L = 4 }
"""


def stop_here(*_):
    """Stands in for hours of training."""
    raise StageFailed("stopped")


def test_what_a_folder_belongs_to_is_settled_when_its_data_is_whole(tmp_path, monkeypatch):
    """A wrong layout or split can be mended before that; afterwards it makes another study."""
    monkeypatch.setattr("limn.lab.study.reproduce.carry_out", stop_here)
    for k in range(3):
        day = tmp_path / "scans" / f"{k:02d}" / "t0"
        day.mkdir(parents=True)
        (day / "ct.nii.gz").write_bytes(nifti(hu(k), 0.7))
        (day / "drawn.nii.gz").write_bytes(nifti(small_animal(), 0.7))
    data = '[data]\nsource = "../scans"\nlayout = "layout.toml"\nsplit = "split.toml"\n'
    config, out = written(tmp_path / "study", data + FULLRES), tmp_path / "out"
    layout, split = config.with_name("layout.toml"), config.with_name("split.toml")

    def refused():
        with pytest.raises((ConfigWrong, StageFailed)) as found:
            reproduce(config, out, None, lambda line: None)
        return str(found.value)

    layout.write_text(LAYOUT.replace("Heart = 1", "Heart = 7"), encoding="utf-8")
    assert "3 of 3 scans can't be used" in refused()
    layout.write_text(LAYOUT, encoding="utf-8")
    assert "names contrast-00 for test set 2, and none of them is here" in refused()
    assert not (out / "study.json").exists()
    split.write_text(SPLIT.replace('["contrast-00"]', "[]"), encoding="utf-8")
    assert refused() == "stopped"
    # The same study by a relative path.
    monkeypatch.chdir(tmp_path)
    config = Path("study") / config.name
    assert refused() == "stopped"
    layout.write_text(f"# a word\n{LAYOUT}", encoding="utf-8")
    assert refused() == "stopped"
    layout.write_text(LAYOUT.replace("Heart = 1", "Heart = 7"), encoding="utf-8")
    assert "belongs to a study with another layout" in refused()


def test_no_such_config_is_an_error_of_one_line(tmp_path, capsys):
    """The command fails and names the file."""
    code = main.main(["lab", "reproduce", str(tmp_path / "no.toml"), "-o", str(tmp_path / "o")])
    assert code != 0
    assert re.search(r"no.toml can't be read as a study", capsys.readouterr().err)


def test_scans_that_are_not_there_leave_nothing_behind(tmp_path, capsys):
    """A wrong --data makes no work folder, so the right one starts the study."""
    out = tmp_path / "out"
    command = ["lab", "reproduce", str(REPOSITORY / "config" / "paper.toml"), "-o", str(out)]
    assert main.main([*command, "--data", str(tmp_path / "nowhere")]) != 0
    assert "nowhere is no folder; name the folder of the scans by --data" in capsys.readouterr().err
    assert not out.exists()
