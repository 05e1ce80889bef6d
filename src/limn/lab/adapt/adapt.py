"""Adapts a bundle to a site: data set in, sealed bundle and page out; a killed run goes on."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from limn.domain.errors import ConfigWrong
from limn.domain.folders import writable
from limn.lab.adapt.budget import AdaptOptions, chosen_settings
from limn.lab.adapt.cases import make_cases
from limn.lab.adapt.fold import CASES, FoldJob, phantom_seeds, train_fold
from limn.lab.adapt.page import AdaptResult, write_page
from limn.lab.adapt.scoring import AFTER, BEFORE, leaves_out, score_bundles, trials_of
from limn.lab.adapt.seal import AdaptStatement, note_result, write_bundle
from limn.lab.adapt.settings import AdaptSettings, claim_work, kept_settings
from limn.lab.adapt.site_scans import SiteData, read_site, refuse_spacing
from limn.lab.adapt.start import Start, refuse_other_names, start_from
from limn.lab.adapt.verdict import changes, recommend, too_few_judges
from limn.lab.data.dataset import MANIFEST
from limn.lab.data.organs import read_organs
from limn.lab.process.folder_lock import folder_lock
from limn.lab.process.pool import in_processes
from limn.segment.bundle.bundle import open_bundle, sha256_of

BUNDLE = "bundle"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")


def adapt(
    bundle: Path,
    dataset: Path,
    out: Path,
    options: AdaptOptions,
    report: Callable[[str], None],
) -> Path:
    """Go on from a bundle with a site's animals; score, seal and write the page.

    Parameters
    ----------
    report : of a module, for the processes of several folds know it by name

    Returns
    -------
    The new bundle, ``out/bundle``.

    Raises
    ------
    BundleUnfit
        If the bundle is damaged.
    ConfigWrong
        If the data set or the bundle can't be used for it, or ``out`` belongs to another run.
    StageFailed
        If a training process was killed.
    """
    site = read_site(dataset, options.organs)
    start = start_from(bundle, site.organs)
    refuse_other_names(start.bundle, site.organs, read_organs(dataset).roles)
    refuse_spacing(site, start.spacing_mm)
    statement_name = _name(start, dataset, options.name)
    with folder_lock(out, "adaptation is at work there"):
        work = writable(out / "work")
        if kept_settings(work) is None:
            # Of a run that was killed before it wrote of what its cases are.
            shutil.rmtree(work / CASES, ignore_errors=True)
        left_out = {leaves_out(start.bundle, site, fold) for fold in start.bundle.folds}
        if why := too_few_judges(site, left_out):
            report(f"WARNING {why}")
        workers = _workers(start, options.workers)
        settings = chosen_settings(work, start, site, options, workers, report)
        sources = {
            "bundle": start.bundle.sha256,
            "data": sha256_of(dataset / MANIFEST),
            "contours": _contours_sha256(site),
            "organs": ",".join(start.organs.values()),
            "taught": ",".join(site.organs),
        }
        belongs_to = claim_work(work, settings, sources)
        _say(start, site, settings, report)
        seeds = [seed for own in phantom_seeds(settings) for seed in own]
        make_cases(site.teaching, seeds, start, work / CASES, workers, report)
        jobs = fold_jobs(start, site, settings, work, workers, belongs_to)
        _train(jobs, workers, report)
        statement = AdaptStatement(
            statement_name, _version(start, statement_name), settings.phantoms
        )
        return _finish(out, start, site, jobs, statement, report)


def _contours_sha256(site: SiteData) -> str:
    """Of all contours: the manifest of the data set has hashes of the CT alone."""
    every = "".join(sha256_of(scan.contours) for scan in site.scans)
    return hashlib.sha256(every.encode()).hexdigest()


def fold_jobs(
    start: Start,
    site: SiteData,
    settings: AdaptSettings,
    work: Path,
    workers: int,
    belongs_to: dict[str, Any],
) -> list[FoldJob]:
    """One job for each fold of the bundle; the groups of animals are left out in turn."""
    jobs = []
    threads = max(1, torch.get_num_threads() // workers)
    count = len(start.bundle.folds)
    for place, fold in enumerate(start.bundle.folds):
        group = leaves_out(start.bundle, site, fold)
        left_out = tuple(scan for scan in site.teaching if scan.group == group)
        learning = tuple(scan for scan in site.teaching if scan.group != group)
        after = (count - 1 - place) // workers
        jobs.append(
            FoldJob(fold, start, learning, left_out, settings, work, threads, after, belongs_to)
        )
    return jobs


def _train(jobs: Sequence[FoldJob], workers: int, report: Callable[[str], None]) -> None:
    waiting = [job for job in jobs if not (job.is_done and job.best_weights.exists())]
    if workers > 1 and len(waiting) > 1:
        ended = in_processes(partial(train_fold, report=report), waiting, workers, "learns")
    else:
        ended = (train_fold(job, report) for job in waiting)
    for number in ended:
        report(f"fold {number} has learnt")


def _finish(
    out: Path,
    start: Start,
    site: SiteData,
    jobs: Sequence[FoldJob],
    statement: AdaptStatement,
    report: Callable[[str], None],
) -> Path:
    """Seal the bundle, score it, write the result into its manifest, write the page."""
    folder, settings = out / BUNDLE, jobs[0].settings
    if not folder.exists():
        weights = {job.number: job.best_weights for job in jobs}
        write_bundle(folder, start, site, weights, statement)
    new = open_bundle(folder)
    organs = list(start.organs.values())
    trials = trials_of(site, start.bundle, organs, settings.phantoms_scored)
    bundles = {BEFORE: start.bundle, AFTER: new}
    scores = score_bundles(trials, bundles, out / "work" / "scores", report)
    found = changes(scores, list(start.bundle.organs.values()))
    advice = recommend(found, site.organs)
    note_result(folder, start, site, statement, found, advice)
    new = open_bundle(folder)
    looks = {job.number: job.looks for job in jobs}
    notes = _notes(start, site, jobs)
    result = AdaptResult(start.bundle, new, found, advice, looks, notes)
    write_page(out, result, trials, scores, report)
    report(f"{new.label} sealed in {folder}")
    report(advice.sentence)
    return folder


def _workers(start: Start, wanted: int | None) -> int:
    if wanted is not None and wanted < 1:
        msg = f"--workers {wanted}: 1 or more expected"
        raise ConfigWrong(msg)
    if torch.cuda.is_available():
        return 1
    return min(wanted or os.cpu_count() or 1, len(start.bundle.folds))


def _name(start: Start, dataset: Path, wanted: str | None) -> str:
    name = wanted or re.sub(
        r"[^A-Za-z0-9._-]+", "-", f"{start.bundle.name}-{dataset.resolve().name}"
    )
    if not NAME.fullmatch(name):
        msg = f"{name!r} is no name for a bundle; use letters, digits, '.', '_' and '-'"
        raise ConfigWrong(msg)
    return name


def _version(start: Start, name: str) -> str:
    """One more than that of a bundle of the same name; else the first."""
    again = start.bundle.name == name and start.bundle.version.isdecimal()
    return str(int(start.bundle.version) + 1) if again else "1"


def _say(
    start: Start, site: SiteData, settings: AdaptSettings, report: Callable[[str], None]
) -> None:
    teaching, testing = site.animals(site.teaching), site.animals(site.testing)
    report(
        f"{start.bundle.label} goes on with {len(site.teaching)} scans of {len(teaching)} animals "
        f"({', '.join(teaching)}); {len(testing)} animals only test; {settings.phantoms} phantoms "
        f"keep what was known; {settings.steps} steps a fold"
    )
    if start.new_organs:
        report(f"new organs: {', '.join(start.new_organs)}")
    now = datetime.now().astimezone()
    report(f"begun {now:%a %H:%M}; the first look says when it ends at the latest")


def _notes(start: Start, site: SiteData, jobs: Sequence[FoldJob]) -> list[str]:
    settings = jobs[0].settings
    lacking = [organ for organ in start.organs.values() if organ not in site.organs]
    notes = [
        f"{len(jobs)} folds, at most {settings.steps} steps each, kept after steps "
        f"{', '.join(str(job.looks.best.step) for job in jobs)}; {settings.site_share:.0%} of the "
        f"patches from {len(site.teaching)} scans of {len(site.animals(site.teaching))} animals, "
        f"the others from {settings.phantoms} phantoms.",
        "An organ that is not contoured in a scan is neither rewarded nor punished there.",
    ]
    if not any(job.looks.best.step for job in jobs):
        notes.append(
            "No fold got better without forgetting more than that is worth: every network is still "
            f"that of {start.bundle.label}. Give more steps or more phantoms."
        )
    if lacking:
        notes.append(f"Learnt from phantoms alone: {', '.join(lacking)}.")
    if start.new_organs:
        notes.append(f"New: {', '.join(start.new_organs)}.")
    if start.bundle.judge:
        notes.append(
            "The judge was left out, since it learnt how the old networks err; limn lab judge "
            "teaches one to the new bundle. Until then a light says only what speaks against a "
            "contour."
        )
    return notes
