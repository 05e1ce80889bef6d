"""Steps of a study that are not nnunetv2's: AIMOS, limn's engine, scores.

nnunetv2's steps are in `limn.lab.systems.nnunet`. Every step goes on where a killed one stopped.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK
import torch

from limn.domain.files import write_durably
from limn.domain.scan import Labels, Organ, Volume
from limn.domain.timing import Stopwatch
from limn.formats.label_files import contents_of, image_of
from limn.lab.data.dataset import Entry
from limn.lab.data.folder_layout import OBSERVERS
from limn.lab.data.organs import DatasetOrgans, read_organs
from limn.lab.data.readers import read_ct
from limn.lab.measure.scores import Scan, Score, observer_scores, system_scores, write_scores
from limn.lab.process.isolated import cores, end_with_parent
from limn.lab.process.timed import write_record
from limn.lab.study.bundle import seal_folds
from limn.lab.systems import aimos
from limn.lab.systems.aimos import AimosPreset
from limn.lab.words import TIMES
from limn.segment.bundle.bundle import open_bundle
from limn.segment.bundle.profile import ProfileName
from limn.segment.engine.ensemble import Ensemble
from limn.segment.importing.trained import BundleStatement, usual_clean


@dataclass(frozen=True, slots=True)
class Folders:
    """The files and folders of a study.

    Attributes
    ----------
    dataset : the data set, where it does not lie in the study's own folder
    """

    work: Path
    dataset: Path | None = None

    @property
    def data(self) -> Path:
        """The data set (`limn.lab.data.dataset`)."""
        return self.dataset or self.work / "data"

    @property
    def nnunet(self) -> Path:
        """nnunetv2's three folders."""
        return self.work / "nnunet"

    @property
    def bundle(self) -> Path:
        """The 3d_fullres folds, sealed for limn's engine."""
        return self.work / "bundle"

    def aimos(self, fold: int) -> Path:
        """The folder of one of its networks."""
        return self.work / "aimos" / f"fold_{fold}"

    @property
    def scores(self) -> Path:
        """The long CSV of `limn.lab.measure.scores`."""
        return self.work / "scores.csv"

    def labels(self, system: str, scan: str) -> Path:
        """The labels that a system drew; its times are beside them."""
        return self.work / "predicted" / system / f"{scan}.nii.gz"

    def times(self, system: str, scan: str) -> Path:
        """The times of a system as JSON (`limn.lab.process.timed`)."""
        return self.work / "predicted" / system / f"{scan}.json"


def train_aimos(
    cases: Sequence[tuple[Path, Path]], classes: int, preset: AimosPreset, seed: int, folder: Path
) -> None:
    """Train one fold; its reports go to the log."""
    aimos.train_fold(cases, classes, preset, seed, folder, _log)


def predict_aimos(networks: Sequence[Path], scans: Sequence[tuple[Path, Path, Path]]) -> None:
    """Label scans by the mean of the folds.

    Parameters
    ----------
    scans : for each scan the paths of the CT, the labels and the times
    """
    folds = aimos.read_folds(networks)

    def label(volume: Volume, watch: Stopwatch) -> npt.NDArray[np.uint8]:
        labels, times = aimos.predict(folds, volume)
        watch.elapsed_s.update(times)
        return labels

    _predict(scans, label)


def predict_limn(
    trained: Path,
    bundle: Path,
    statement: BundleStatement,
    profile: ProfileName,
    scans: Sequence[tuple[Path, Path, Path]],
) -> None:
    """Label scans by limn's own engine with the 3d_fullres folds, warm as in the node."""
    seal_folds(trained, bundle, statement, profile)
    label_scans(bundle, profile, scans)


def label_scans(
    bundle: Path,
    profile: ProfileName,
    scans: Sequence[tuple[Path, Path, Path]],
    label_of: Mapping[str, int] | None = None,
) -> None:
    """Label scans by a bundle in limn's own engine, warm as in the node.

    Parameters
    ----------
    label_of : organ to its label in the files; None for the bundle's own labels. An organ that it
        lacks is not written.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ensemble = Ensemble.load(open_bundle(bundle), device, profile)
    ensemble.warm_up()
    numbers = np.arange(256, dtype=np.uint8)
    if label_of is not None:
        numbers[:] = 0
        for number, organ in ensemble.bundle.organs.items():
            numbers[number] = label_of.get(organ, 0)

    def label(volume: Volume, watch: Stopwatch) -> npt.NDArray[np.uint8]:
        def drawn() -> tuple[tuple[str, ...], npt.NDArray[np.uint8]]:
            with watch.stage("preprocess_s"):
                prepared = ensemble.prepare(volume)
            with watch.stage("inference_s"):
                inferred = ensemble.infer(prepared, lambda done, total: None)
                return inferred.flags, ensemble.label(prepared, inferred).labels_zyx

        flags, labels = ensemble.despite_gpu(drawn)
        if flags:
            _log(f"flags: {', '.join(flags)}")
        return np.asarray(numbers[labels], dtype=np.uint8)

    _predict(scans, label)


def score(folders: Folders, entries: Sequence[Entry], systems: Sequence[str], out: Path) -> None:
    """Compare every system with every observer on every test scan; write the long CSV."""
    workers = min(len(entries), cores())
    context = multiprocessing.get_context("spawn")
    found: dict[str, list[Score]] = {}
    organs = read_organs(folders.data)
    with ProcessPoolExecutor(workers, context, end_with_parent) as pool:
        jobs = {
            pool.submit(_score_scan, folders, organs, own, systems): own.scan for own in entries
        }
        for number, job in enumerate(as_completed(jobs), start=1):
            found[jobs[job]] = job.result()
            _log(f"scored {number}/{len(entries)} {jobs[job]}")
    # The order of the data set, so that the same study gives the same file.
    write_scores(out, [each for own in entries for each in found[own.scan]])


def read_drawing(path: Path, volume: Volume, organs: Mapping[int, Organ]) -> Labels:
    """Labels of a scan by an observer or a system, on the scan's grid."""
    labels_zyx = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).astype(np.uint8)
    return Labels(labels_zyx, volume.grid, organs)


def _score_scan(
    folders: Folders, organs: DatasetOrgans, own: Entry, systems: Sequence[str]
) -> list[Score]:
    volume = read_ct(folders.data / own.ct, "")
    scan = Scan(own.split, own.scan, own.animal)
    observers = {
        name: read_drawing(folders.data / path, volume, organs.organs).labels_zyx
        for name in OBSERVERS
        if (path := getattr(own, name))
    }
    found = observer_scores(scan, list(observers.values()), organs.structures)
    rules = usual_clean(organs.organs.values(), organs.roles)
    for system in systems:
        drawn = read_drawing(folders.labels(system, own.scan), volume, organs.organs)
        found += system_scores(scan, system, drawn, observers, organs.structures, rules)
        times = json.loads(folders.times(system, own.scan).read_text(encoding="utf-8"))
        found += [
            Score(own.split, own.scan, own.animal, system, "", "no", "", name, times[name])
            for name in TIMES
        ]
    return found


def _predict(
    scans: Sequence[tuple[Path, Path, Path]],
    label: Callable[[Volume, Stopwatch], npt.NDArray[np.uint8]],
) -> None:
    """Label scans; the first one twice, so that its time has no warm-up in it."""
    for number, (ct, out, times) in enumerate([scans[0], *scans]):
        watch = Stopwatch()
        # The runtime leaves out the wait for the disk, which is no part of any system.
        with watch.stage("runtime_s"):
            with watch.stage("read_s"):
                volume = read_ct(ct, "")
            labels = label(volume, watch)
            image = image_of(labels, volume.grid)
            contents = contents_of(image)
        write_durably(out, contents)
        write_record(times, ct.parent.name, watch.elapsed_s)
        _log(f"{number}/{len(scans)} {ct.parent.name}: {watch.elapsed_s['runtime_s']:.1f} s")


def _log(line: str) -> None:
    """Print a line into the log of this process."""
    print(line, flush=True)  # noqa: T201
