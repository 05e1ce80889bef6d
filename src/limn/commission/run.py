"""`limn commission`: sends the plan through the running node, measures, asks, writes the report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from limn import __version__
from limn.commission import plan, questions, report
from limn.commission.double import (
    awaited_structure_sets,
    receiving_double,
    structure_sets_of,
)
from limn.commission.expectations import step_faults
from limn.commission.measuring import MeasuredOrgan, changed, measured
from limn.commission.phantoms import SentPhantom, make
from limn.commission.plan import PlannedStep
from limn.commission.record import (
    CommissioningRun,
    RunIdentity,
    StepResult,
    last_report,
    run_in,
    run_to_amend,
    sha256_of,
)
from limn.commission.sending import (
    ScanEnd,
    clear_away,
    delivered_to,
    known,
    node_peer,
    send,
    send_images,
    wait_for_end,
)
from limn.commission.tolerances import Tolerances, own_tolerances
from limn.domain.errors import ConfigWrong, RefusedSeries
from limn.domain.scan import Role
from limn.domain.timing import DOOR_TO_DOOR_STAGES, in_words
from limn.lab.process.folder_lock import folder_lock
from limn.node.commissioning import COMMISSIONING
from limn.node.config import Config, FolderDestination, load_config
from limn.node.contour.site_bundle import deliverable_bundle, style_of
from limn.node.dimse.client import Peer
from limn.node.store.disk.commission import announce_phantom
from limn.segment.bundle.bundle import Bundle

POLL_S = 1.0
# Unattended: so long after the last structure set came back, no more are expected.
BACK_S = 120.0
DELIVERED_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a person asks of a commissioning.

    Attributes
    ----------
    to : planning systems, by their names in the config, to which sound phantoms may go too
    back : where planning systems put structure sets that they return; by default where the node
        keeps what comes back to it
    only : steps or groups; none: all
    answers : file with answers; None: a person at the terminal is asked
    calling : AE title by which the node is called; None: one that it takes
    back_s : how long to wait for what is returned, with nobody at the terminal
    amend : a report is written anew, with what came back and was answered since; nothing is sent
    again : steps or groups of a run that has its report: they alone are sent again, and the report
        is written anew
    """

    out: Path
    to: tuple[str, ...] = ()
    back: Path | None = None
    only: tuple[str, ...] = ()
    answers: Path | None = None
    calling: str | None = None
    back_s: float = BACK_S
    amend: bool = False
    again: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Site:
    """The running node that is commissioned."""

    config: Config
    bundle: Bundle
    peer: Peer
    names: Mapping[Role, str]
    tolerances: Tolerances
    to: tuple[str, ...]
    console: Console = field(default_factory=lambda: Console(emoji=False, highlight=False))


def commission(config_path: Path, wish: Wish) -> bool:
    """Run or go on with a commissioning, and write its report; true if all passed.

    Raises
    ------
    ConfigWrong
        If something that was asked for does not exist, or the node does not answer.
    """
    given = questions.read_answers(wish.answers)
    site = _site(config_path, wish, given)
    planned = plan.chosen(wish.only)
    with folder_lock(wish.out, "limn commission is writing there"):
        identity = RunIdentity(
            limn=__version__,
            bundle=site.bundle.label,
            bundle_sha256=site.bundle.sha256,
            config=str(config_path),
            config_sha256=sha256_of(config_path),
            plan=plan.digest(planned),
            to=wish.to,
        )
        run, goes_on = _run_of(wish, identity, site.tolerances, planned)
        done = run.results()
        begun = f"{run.folder}: {len(planned)} phantoms"
        words = f"{begun}, {len(done)} are done" if goes_on else begun
        site.console.print(words, soft_wrap=True, markup=False)
        _run_steps(site, run, planned, set(done))
        _collect_returned(site, run, planned, wish)
        asked = _questions(site, run, planned)
        answers = questions.collect(asked, given, run.answers, questions.at_terminal())
        if wish.amend:
            run.set_report_aside()
        before = last_report(wish.out, run.folder, [step.name for step in planned])
        made = report.build(run, planned, run.results(), site.tolerances, answers, before)
        page = report.write(run, made, planned)
    for line in made["verdict"]["lines"]:
        site.console.print(line, soft_wrap=True, markup=False)
    site.console.print(f"report: {page}", soft_wrap=True, markup=False)
    return bool(made["verdict"]["word"] == report.PASSED)


def _run_of(
    wish: Wish, identity: RunIdentity, tolerances: Tolerances, planned: Sequence[PlannedStep]
) -> tuple[CommissioningRun, bool]:
    """The run that is meant, and whether steps of it are done."""
    if wish.amend:
        return run_to_amend(wish.out, identity, tolerances, "--amend"), True
    if not wish.again:
        return run_in(wish.out, identity)
    names = [step.name for step in plan.named("--again", wish.again, planned)]
    run = run_to_amend(wish.out, identity, tolerances, "--again")
    # Without a report the run counts as begun: if it is killed now, it goes on as any.
    run.set_report_aside()
    questions.forget_seen(run.answers, names)
    for name in names:
        run.set_result_aside(name)
    return run, True


def list_steps() -> str:
    """Every step of the plan, one per line."""
    return "\n".join(
        f"{each.name:24} {each.group:8} {each.says}; expected: {each.expected}"
        for each in plan.steps()
    )


def _site(config_path: Path, wish: Wish, given: Mapping[str, object]) -> Site:
    config = load_config(config_path)
    if len(wish.to) > 1:
        msg = f"--to {', '.join(wish.to)}: one planning system at a time; run it once for each"
        raise ConfigWrong(msg)
    known_names = [each.name for each in config.destination]
    if unknown := sorted(set(wish.to) - set(known_names)):
        msg = f"--to {', '.join(unknown)}: no such destination; the config names {known_names}"
        raise ConfigWrong(msg)
    for each in config.destination:
        if isinstance(each, FolderDestination) and each.folder == wish.back:
            msg = f"--back {wish.back}: limn itself writes there (destination {each.name})"
            raise ConfigWrong(msg)
    if not config.ready_path.exists():
        msg = (
            f"no worker of the node is ready in {config.data_dir}; start it first: "
            f"limn serve --config {config_path}"
        )
        raise ConfigWrong(msg)
    bundle = deliverable_bundle(config)
    roi_names = style_of(config.planning_system, bundle, config.roi).roi_names
    names = {role: roi_names[organ] for role, organ in bundle.roles.items() if organ in roi_names}
    own = given.get("tolerances", {})
    return Site(
        config,
        bundle,
        node_peer(config, wish.calling),
        names,
        own_tolerances(own if isinstance(own, Mapping) else {}),
        wish.to,
    )


def _run_steps(
    site: Site, run: CommissioningRun, planned: Sequence[PlannedStep], done: set[str]
) -> None:
    """Send every step that is not done, one after the other; the node has nothing else to do."""
    left = [step for step in planned if step.name not in done]
    if not left:
        return
    started_s = time.monotonic()
    with receiving_double(site.config.commissioning.port, run.received):
        for number, step in enumerate(left, start=1):
            result = _step(site, run, step)
            run.write(result)
            spent_s = time.monotonic() - started_s
            rest = f"{in_words(spent_s / number * (len(left) - number))} left"
            word = "ok  " if result.passed else "FAIL"
            door = result.times.get("door_to_door_s")
            took = f", {door:.1f} s from door to door" if door is not None else ""
            site.console.print(
                f"{word} {step.name}: {result.outcome}{took}; {rest}", soft_wrap=True, markup=False
            )
            for fault in result.faults:
                site.console.print(f"     {fault}", soft_wrap=True, markup=False)


def _step(site: Site, run: CommissioningRun, step: PlannedStep) -> StepResult:
    """Make, send, wait, measure, clear away."""
    config = site.config
    phantom = make(step, run.phantom(step.name), run.occasion_of(step.name))
    uid = phantom.series_instance_uid
    datasets = phantom.datasets()
    to = site.to if step.may_leave else ()
    notes = [f"{name}: {send_images(config, name, datasets)}" for name in to]
    series = {str(ds.SeriesInstanceUID) for ds in datasets}
    announce_phantom(config.commissioning_path, series, to, time.time())
    interrupted = run.mark_sent(step.name)
    if interrupted and known(config, uid):
        taken = len(datasets)
        notes.append("the run was interrupted in this step, so its time does not count")
    else:
        taken = send(site.peer, datasets)
    if taken:
        end = wait_for_end(config, uid)
    else:
        end = ScanEnd(outcome="refused at the door", reason="the node took no instance of it")
    organs, unreadable = _best(site, run, phantom, end)
    late = [
        why for name in to if end.outcome == "delivered" if (why := _not_there(site, end, name))
    ]
    if end.picture is not None:
        shutil.copyfile(end.picture, run.picture(step.name))
    clear_away(config, uid)
    if not to:
        # A whole plan has a gigabyte of them; a planning system may need those that it knows.
        shutil.rmtree(run.phantom(step.name), ignore_errors=True)
    result = _result(step, end, organs, sent=len(datasets), taken=taken, phantom=phantom)
    if interrupted:
        result = replace(result, times={})
    found = [*step_faults(step, result, site.tolerances), *unreadable, *late]
    return replace(result, faults=tuple(found), notes=tuple(notes))


def _not_there(site: Site, end: ScanEnd, name: str) -> str:
    return delivered_to(site.config, end.scan, name, DELIVERED_S)


def _best(
    site: Site, run: CommissioningRun, phantom: SentPhantom, end: ScanEnd
) -> tuple[tuple[MeasuredOrgan, ...], list[str]]:
    """The measured structure set of a phantom; of several animals' the one that fits the truth."""
    contents = list(end.contents)
    if end.outcome == "delivered":
        # Where a planning system took it first, the node may be about to send this one.
        uid = phantom.series_instance_uid
        contents = awaited_structure_sets(run.received, uid, DELIVERED_S)
        if not contents:
            return (), ["The node says that it delivered the structure set, and it never came."]
    found, unreadable = [], []
    for each in contents:
        try:
            found.append(measured(each, phantom, site.names))
        except RefusedSeries as error:
            unreadable.append(f"The structure set can't be read on its series: {error}")
    best = max(found, key=lambda organs: sum(each.dsc for each in organs), default=())
    return best, unreadable


def _result(
    step: PlannedStep,
    end: ScanEnd,
    organs: tuple[MeasuredOrgan, ...],
    *,
    sent: int,
    taken: int,
    phantom: SentPhantom,
) -> StepResult:
    row = end.row
    columns = ("door_to_door_s", "receive_s", *DOOR_TO_DOOR_STAGES)
    times = {name: float(row[name]) for name in columns if row.get(name)}
    grid = phantom.series.grid if phantom.series is not None else None
    return StepResult(
        name=step.name,
        series_instance_uid=phantom.series_instance_uid,
        outcome=end.outcome,
        scan=end.scan,
        light=row.get("light", "") or ("red" if end.outcome == "held" else ""),
        flags=" ".join(
            each
            for each in row.get("flags", "").split()
            if each != COMMISSIONING and not each.startswith("light:")
        ),
        reason=end.reason,
        sent=sent,
        taken=taken,
        times=times if end.outcome == "delivered" else {},
        device=row.get("device", ""),
        organs=organs,
        voxel_mm=max(grid.spacing_mm.zyx) if grid is not None else step.request.spacing_mm,
        faults=(),
    )


def _collect_returned(
    site: Site, run: CommissioningRun, planned: Sequence[PlannedStep], wish: Wish
) -> None:
    """Measure what the planning system returned of the phantoms that it got."""
    if not wish.to:
        return
    back = wish.back or site.config.data_dir / "returned"
    waiting = {
        step.name: step
        for step in planned
        if step.may_leave and _can_return(run.results()[step.name])
    }
    if not waiting:
        return
    ask = questions.at_terminal()
    receive = site.config.receive
    where = (
        f"send them to the node by C-STORE ({receive.ae_title}, port {receive.port})"
        if wish.back is None
        else f"export them into {back}"
    )
    site.console.print(
        f"{', '.join(wish.to)} has the structure sets of {len(waiting)} phantoms: {where}.",
        soft_wrap=True,
        markup=False,
    )
    if ask is not None:
        ask("Press Enter when it is done; what is not there then counts as not returned: ")
    until_s = time.monotonic() + (0.0 if ask is not None else wish.back_s)
    while waiting:
        for step in list(waiting.values()):
            if not _returned(site, run, step, back):
                continue
            del waiting[step.name]
            _say_returned(site, run.results()[step.name], len(waiting))
            until_s = max(until_s, time.monotonic() + (0.0 if ask is not None else wish.back_s))
        if time.monotonic() >= until_s:
            break
        time.sleep(POLL_S)


def _say_returned(site: Site, result: StepResult, left: int) -> None:
    """Say that a phantom's structure set came back and was measured, and what is wrong with it."""
    word = "ok  " if result.passed else "FAIL"
    site.console.print(
        f"{word} {result.name}: came back and was measured; {left} left",
        soft_wrap=True,
        markup=False,
    )
    for fault in result.faults:
        site.console.print(f"     {fault}", soft_wrap=True, markup=False)


def _can_return(result: StepResult) -> bool:
    """Whether there is something to compare with, and nothing was compared yet."""
    return result.outcome == "delivered" and bool(result.organs) and not result.back


def _returned(site: Site, run: CommissioningRun, step: PlannedStep, back: Path) -> bool:
    """Measure the newest structure set that was returned of a step; false if there is none."""
    result = run.results()[step.name]
    found = structure_sets_of(back, result.series_instance_uid) if back.is_dir() else []
    if not found:
        return False
    phantom = make(step, run.phantom(step.name), run.occasion_of(step.name))
    whose = f"what {', '.join(site.to)} returned"
    try:
        organs = measured(found[-1], phantom, site.names)
        wrong = changed(organs, result.organs, site.tolerances, result.voxel_mm, whose)
    except RefusedSeries as error:
        organs, wrong = (), (f"The structure set in {whose} can't be read: {error}",)
    run.write(replace(result, back={", ".join(site.to): organs}, faults=(*result.faults, *wrong)))
    return True


def _questions(
    site: Site, run: CommissioningRun, planned: Sequence[PlannedStep]
) -> list[questions.Question]:
    """Who signs; and, if a planning system was part of it, what only that can show."""
    found = [questions.Question("signed.by", "Who answers for this report", "words")]
    if not site.to:
        return found
    found.append(
        questions.Question("planning_system.name", "Planning system, with its version", "words")
    )
    done = run.results()
    for step in planned:
        if step.seen and done[step.name].organs:
            found += questions.questions_on(step.name, done[step.name])
    return found
