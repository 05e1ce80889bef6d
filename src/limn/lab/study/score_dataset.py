"""Scores a bundle on a data set's test animals, in the paper's tables and beside its values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from limn.domain.errors import ConfigWrong
from limn.domain.folders import writable
from limn.lab.data.dataset import Entry, read_dataset
from limn.lab.data.organs import DatasetOrgans, read_organs
from limn.lab.measure.evaluate import refuse_other_scores
from limn.lab.process.folder_lock import folder_lock
from limn.lab.process.timed import timed_on
from limn.lab.report.tables import write_tables
from limn.lab.study.jobs import Folders, label_scans, score
from limn.lab.words import LIMN, SYSTEMS
from limn.segment.bundle.bundle import Bundle, open_bundle
from limn.segment.bundle.profile import ProfileName

Report = Callable[[str], None]


def score_dataset(
    bundle_folder: Path, dataset: Path, out: Path, profile: ProfileName | None, report: Report
) -> Path:
    """Contour every test scan of a data set, and write the scores and the tables.

    Scans that an earlier run contoured are not contoured again.

    Parameters
    ----------
    profile : of limn's engine; None for the bundle's own

    Returns
    -------
    The page of tables.

    Raises
    ------
    BundleUnfit, ConfigWrong
        If the bundle or the data set can't be used, they share no organ, or ``out`` belongs to
        another bundle or data set.
    """
    bundle, organs = open_bundle(bundle_folder), read_organs(dataset)
    testing = [entry for entry in read_dataset(dataset) if entry.split != "train"]
    _refuse_nothing(bundle, organs, dataset, testing)
    named = profile or bundle.profile
    writable(out)
    with folder_lock(out, "run is writing there"):
        told = f"{bundle.label} ({bundle.sha256[:12]}, profile {named}) on {dataset.resolve()}"
        refuse_other_scores(out, told)
        system = _system(bundle)
        folders = Folders(out, dataset)
        folders.labels(system, "").parent.mkdir(parents=True, exist_ok=True)
        waiting = [own for own in testing if not folders.times(system, own.scan).exists()]
        if waiting:
            scans = [
                (
                    dataset / own.ct,
                    folders.labels(system, own.scan),
                    folders.times(system, own.scan),
                )
                for own in waiting
            ]
            label_scans(bundle.folder, named, scans, organs.label_of)
        score(folders, testing, [system], folders.scores)
        timed = timed_on({system: [folders.times(system, own.scan) for own in testing]})
        write_tables(folders.scores, out, report, _introduction(bundle, named, dataset), timed)
    return out / "tables.md"


def _refuse_nothing(
    bundle: Bundle, organs: DatasetOrgans, dataset: Path, testing: list[Entry]
) -> None:
    if not testing:
        msg = f"{dataset} has no animal that tests; import it again with a --split that has one"
        raise ConfigWrong(msg)
    if not set(bundle.organs.values()) & set(organs.organs.values()):
        msg = (
            f"bundle {bundle.label} draws {', '.join(bundle.organs.values())}; {dataset} has "
            f"{', '.join(organs.organs.values())}: nothing can be compared. Give the organs one "
            "name, in the layout of the data set"
        )
        raise ConfigWrong(msg)


def _system(bundle: Bundle) -> str:
    """The paper's name for the bundle's network, so that its values stand beside; else limn."""
    return bundle.configuration if bundle.configuration in {own.key for own in SYSTEMS} else LIMN


def _introduction(bundle: Bundle, profile: ProfileName, dataset: Path) -> str:
    return (
        f"Bundle {bundle.label} in limn's engine, profile {profile}, on the test animals of "
        f"{dataset.resolve().name}. It was trained on: {bundle.trained_on}. An animal that it "
        "learnt from scores too well: compare the names. The rows `here` are this bundle, whatever "
        "the table calls its network.\n"
    )
