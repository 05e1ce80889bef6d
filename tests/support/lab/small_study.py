"""A study of all five systems that takes minutes: four phantoms, networks of a few features."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]

SPLIT = """
test1 = ["native-02"]
test2 = ["contrast-00"]
folds = [["native-00"], ["native-01"]]
"""
HEAD = """
trainer = "short"
[data]
split = "split.toml"
[cohort]
animals = 3
time_points = 1
contrast_animals = 1
contrast_scans = 1
spacing_mm = 0.7
"""
LEARNING = "batch = 2\nepochs = 2\niterations = 3\n"
IN_3D = "poolings = [2, 2, 2]\nfeatures = [4, 8, 16]\n" + LEARNING
FULLRES = "[systems.3d_fullres]\nspacing_mm = 0.7\npatch = [32, 32, 32]\n" + IN_3D
OTHERS = f"""
[systems.3d_lowres]
spacing_mm = 1.0
patch = [24, 24, 24]
{IN_3D}
[systems.3d_cascade]
spacing_mm = 0.7
patch = [32, 32, 32]
{IN_3D}
[systems.2d]
spacing_mm = 0.7
patch = [32, 32]
poolings = [2, 2]
features = [4, 8, 16]
{LEARNING}
"""
AIMOS = """
[systems.aimos]
spacing_mm = 0.7
size = [64, 64]
features = [4, 4, 4, 4, 4, 8]
batch = 4
steps = 6
learning_rate = 0.002
"""
WHOLE = HEAD + FULLRES + OTHERS + AIMOS


def written(folder, text):
    """A study's TOML and its split on disk."""
    folder.mkdir()
    (folder / "split.toml").write_text(SPLIT, encoding="utf-8")
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def started(config, out, module="limn.cli"):
    """The command, as a user gives it, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", module, "lab", "reproduce", str(config), "-o", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=REPOSITORY,
        # Forks of a process with several threads may hang; with one thread, sums have one order.
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
