"""Teaches a bundle's judge and tries it: from spoilt scans to a sealed bundle, and to a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from limn.domain.errors import BundleUnfit, ConfigWrong
from limn.lab.data.organs import read_organs
from limn.lab.trust.spoilt_dataset import dataset_set
from limn.lab.trust.spoilt_set import Spoilt, beyond_chest, contour_set, phantom_set
from limn.lab.trust.teach import FEWEST_ROWS, teach
from limn.lab.trust.trust_report import draw_misses, write_report
from limn.phantom.anatomy import WHOLE_LABELS
from limn.segment.bundle.bundle import add_part, open_bundle
from limn.segment.engine.ensemble import Ensemble
from limn.segment.judge.judge_of_bundle import judge_of

JUDGE_FILE = "judge.npz"


def teach_bundle(
    folder: Path,
    dataset: Path | None,
    out: Path,
    count: int,
    workers: int | None,
    report: Callable[[str], None],
) -> None:
    """Contour spoilt scans with a bundle, teach a judge by them, and seal the bundle with it.

    Parameters
    ----------
    dataset : a data set of contoured scans; None for phantoms
    count : of phantoms
    """
    bundle = open_bundle(folder)
    known = WHOLE_LABELS if dataset is None else read_organs(dataset).organs
    if unknown := [organ for organ in bundle.organs.values() if organ not in known.values()]:
        source = "the phantoms have" if dataset is None else f"{dataset} has"
        msg = (
            f"nobody knows the truth of {', '.join(unknown)}: {source} contours of "
            f"{', '.join(known.values())}; bundle {bundle.label} can't get a judge by them"
        )
        raise ConfigWrong(msg)
    scans: Sequence[Spoilt] = (
        phantom_set("teach", count, whole_body=beyond_chest(bundle))
        if dataset is None
        else dataset_set(dataset)
    )
    if len(scans) < FEWEST_ROWS:
        msg = f"{len(scans)} scans can't teach a judge; {FEWEST_ROWS} or more expected"
        raise ConfigWrong(msg)
    source = "phantoms" if dataset is None else str(dataset.resolve())
    rows = contour_set(folder, out / "teach.jsonl", scans, source, report, workers)
    taught_by = f"{len(rows)} scans of {dataset or 'phantoms with faults'}"
    about = {"folds": len(bundle.folds), "taught_by": taught_by}
    judge = teach(rows, list(bundle.organs.values()), about, report)
    judge.write(folder / JUDGE_FILE)
    sealed = add_part(folder, "judge", JUDGE_FILE)
    report(f"{sealed.label} sealed with a judge in {folder}")


def try_judge(
    folder: Path, out: Path, count: int, workers: int | None, report: Callable[[str], None]
) -> None:
    """Contour spoilt phantoms that taught no judge, and write how far the bundle's is right.

    Raises
    ------
    BundleUnfit
        If the bundle has no judge.
    """
    bundle = open_bundle(folder)
    judge = judge_of(bundle)
    if judge is None:
        msg = f"bundle {bundle.label} has no judge; teach it with 'limn lab judge {folder}'"
        raise BundleUnfit(msg)
    scans = phantom_set("try", count, whole_body=beyond_chest(bundle))
    rows = contour_set(folder, out / "try.jsonl", scans, "phantoms", report, workers)
    misses = write_report(rows, judge, out, report)
    if misses:
        draw_misses(misses, Ensemble.load(bundle, "cpu", bundle.profile), out, report)
