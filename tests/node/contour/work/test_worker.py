"""A worker keeps its warm ensemble; one that can't warm up ends."""

import ast
import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster

from limn.node.config import load_config
from limn.node.contour.allocation import KIND
from limn.node.contour.work import contour_job
from limn.node.contour.work import worker as worker_module
from limn.node.contour.work.warm import Warm, warm_up
from limn.node.contour.work.worker import NOT_WARM, offer, ready
from limn.segment.bundle.sample import Sample, add_sample
from limn.segment.engine import int8
from limn.segment.engine.int8 import Verdict
from tests.conftest import one_fold
from tests.support.segment.bundles import architecture, random_bundle

pytestmark = pytest.mark.slow

CONFIG = """\
data_dir = "data"
[[destination]]
kind = "folder"
name = "out"
folder = "out"
[model]
bundle = "{bundle}"
allow_demo_bundle = true
"""
# As Dask runs a preload: what it raises is logged and forgotten.
RUN = """
import pathlib, sys
from limn.node.contour.work import worker
from limn.node.host import lifetime
def broken(config, kept_in):
    raise RuntimeError("the model does not load")
lifetime.end_with_supervisor = lambda: None
worker.warm_up = broken
try:
    worker.dask_setup.callback(None, pathlib.Path(sys.argv[1]))
except Exception:
    pass
"""


LOAD = """
import gc, json, sys
import limn.node.contour.pipeline
from limn.node.contour.work.worker import load_for_good
load_for_good()
print(json.dumps([gc.get_freeze_count(), *sys.modules]))
"""


def test_no_scan_waits_for_an_import_or_for_what_is_loaded():
    """Before its first job a worker has imported what jobs import; no collection looks at it."""
    tree = ast.parse(Path(contour_job.__file__).read_text(encoding="utf-8"))
    within = [
        each.module
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for each in ast.walk(function)
        if isinstance(each, ast.ImportFrom)
    ]
    shown = subprocess.run([sys.executable, "-c", LOAD], check=True, capture_output=True)
    frozen, *imported = json.loads(shown.stdout)
    assert within
    assert set(within) <= set(imported)
    assert frozen > 10_000


def test_a_worker_that_cannot_warm_up_ends(tmp_path):
    """Dask alone would let it register without an ensemble, and every scan would wait."""
    config = tmp_path / "node.toml"
    config.write_text(CONFIG.format(bundle=one_fold()))
    ended = subprocess.run([sys.executable, "-c", RUN, str(config)], check=False, timeout=120)
    assert ended.returncode == NOT_WARM
    logged = (tmp_path / "data" / "worker.log").read_text()
    assert "can't warm up its model" in logged
    assert "the model does not load" in logged


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_named_and_flagged(tmp_path, caplog):
    """The worker starts on the CPU; its log names the key, and each scan has the flag."""
    config = tmp_path / "node.toml"
    config.write_text(CONFIG.format(bundle=one_fold()) + 'device = "cuda"\n')
    warm = warm_up(load_config(config))
    assert "model.device is cuda, but the GPU can't be used (" in caplog.text
    assert warm.ensemble.lost_gpu
    assert warm.ensemble._working.flags == ("gpu-failed:cpu",)


@pytest.mark.parametrize(("key", "ran"), [("int8 = true", "int8"), ("int8 = false", "bf16 fp32")])
def test_the_record_says_that_int8_ran(tmp_path, monkeypatch, key, ran):
    """The ensemble of a worker names its precision, as far as the site allows int8."""
    described = architecture(3, [[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2)
    folder = tmp_path / "bundle"
    random_bundle(folder, described, [16, 16, 16], [0.3, 0.3, 0.3], folds=1)
    tile = np.zeros((1, 16, 16, 16))
    add_sample(folder, Sample(tile.astype(np.int16), tile.astype(np.uint8)))
    found = Verdict("int8 is used", ({"encoder.stages.0.0.convs.1": (-1.0, 4.0)},))
    monkeypatch.setattr(int8, "decide", lambda bundle, plan: found)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = tmp_path / "node.toml"
    config.write_text(CONFIG.format(bundle=folder) + f'device = "cpu"\n{key}\n')
    warm = warm_up(load_config(config), [tmp_path / "verdicts"])
    assert warm.ensemble.description.removeprefix("cpu openvino ") in ran
    assert (tmp_path / "verdicts").exists() == (ran == "int8")


def test_a_worker_keeps_its_ensemble_for_its_jobs():
    """Every task on that worker finds it; the heartbeat names limn's version and the bundle."""
    bundle = SimpleNamespace(sha256="ab" * 32)
    ensemble = SimpleNamespace(description="threshold", bundle=bundle)
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        (worker,) = cluster.workers.values()
        offer(worker, Warm(ensemble, None))
        assert client.submit(ready, pure=False).result(timeout=30) == "threshold"
        assert worker.metrics[KIND](worker).endswith("bundle abababababab")


def test_files_of_one_name_in_two_folders_stay_two(tmp_path, monkeypatch):
    """A cohort's series may lie in several folders; its bytes come to a host without them."""
    here = SimpleNamespace(local_directory=str(tmp_path))
    monkeypatch.setattr(worker_module, "get_worker", lambda: here)
    job = SimpleNamespace(paths=("/a/1.dcm", "/b/1.dcm"), sizes=(3, 2))
    with ExitStack() as temporary:
        paths = worker_module._written(job, b"onetw", temporary)
        assert [path.read_bytes() for path in paths] == [b"one", b"tw"]
