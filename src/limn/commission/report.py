"""The report of a commissioning: what JSON and page say, from the results of the steps."""

from __future__ import annotations

import base64
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image

from limn.commission.chart import offsets_chart
from limn.commission.differences import differences
from limn.commission.plan import GROUPS, Expected, PlannedStep, steps
from limn.commission.questions import Answer, seen_values
from limn.commission.record import PAGE, REPORT, CommissioningRun, StepResult
from limn.commission.tolerances import REASONS, Tolerances
from limn.domain.files import write_durably
from limn.domain.scan import Role
from limn.domain.timing import DOOR_TO_DOOR_STAGES
from limn.lab.process.timed import machine

SCHEMA_VERSION = 1
PASSED, FAILED, INCOMPLETE = "PASSED", "FAILED", "NOT COMPLETE"
AGAIN = (
    "Once the cause is mended, the same command with --again STEP sends such a step again, alone; "
    "what it gave first stays in the report."
)
# Columns of the picture in the page.
PICTURE_WIDE = 1100
LUNGS = {Role.LUNG_R.value, Role.LUNG_L.value}
PICTURED = ("animals", "lies", "stacks")


def build(
    run: CommissioningRun,
    planned: Sequence[PlannedStep],
    results: Mapping[str, StepResult],
    tolerances: Tolerances,
    answers: Mapping[str, Answer],
    before: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Everything that the report says, as values of JSON.

    Parameters
    ----------
    before : the last report; None for a site's first
    """
    entries = [_entry(step, results[step.name], run.results_before(step.name)) for step in planned]
    seen = [
        {"animal": step.animal, **asdict(value)}
        for step in planned
        if run.identity.to and step.seen and results[step.name].organs
        for value in seen_values(step.name, results[step.name], answers, tolerances)
    ]
    means = _means(planned, results, tolerances)
    times = _times(planned, results)
    made: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "run": {
            "begun_utc": run.begun_utc,
            "ended_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "identity": asdict(run.identity),
            "earlier_reports": run.earlier_reports,
            "host": run.host,
            "processor": machine(),
            "contoured_on": next((each.device for each in results.values() if each.device), ""),
            "planning_system": answers.get("planning_system.name", ""),
            "signed_by": answers.get("signed.by", ""),
        },
        "tolerances": asdict(tolerances),
        "steps": entries,
        "means": means,
        "times": times,
        "seen": seen,
    }
    slower = _slower(times, before, tolerances)
    made["verdict"] = _verdict(made, planned, slower)
    made["differences"] = (
        None if before is None else [asdict(each) for each in differences(before, made)]
    )
    made["before"] = "" if before is None else before["run"]["ended_utc"]
    # As whoever reads the file has it.
    read_back: dict[str, Any] = json.loads(json.dumps(made))
    return read_back


def _entry(
    step: PlannedStep, result: StepResult, results_before: Sequence[StepResult]
) -> dict[str, Any]:
    return {
        **asdict(result),
        "organs": [{**asdict(each), "off_percent": each.off_percent} for each in result.organs],
        "group": step.group,
        "says": step.says,
        "animal": step.animal,
        "expected": str(step.expected),
        "word": _word(result),
        "before": [
            {"word": _word(each), "outcome": each.outcome, "scan": each.scan, "faults": each.faults}
            for each in results_before
        ],
    }


def _word(result: StepResult) -> str:
    return "pass" if result.passed else "FAIL"


def _means(
    planned: Sequence[PlannedStep], results: Mapping[str, StepResult], tolerances: Tolerances
) -> list[dict[str, Any]]:
    """The mean deviation of each organ's volume over the animals; of two and more."""
    names = [step.name for step in planned if step.group == "animals"]
    organs: dict[str, list[tuple[str, float]]] = {}
    for name in names:
        for each in results[name].organs:
            organs.setdefault(each.role, []).append((each.roi, each.off_percent))
    found = []
    for role, values in organs.items():
        if len(values) < 2:
            continue
        mean = statistics.fmean(percent for _, percent in values)
        allowed = tolerances.mean_percent(Role(role))
        fault = ""
        if abs(mean) > allowed:
            fault = (
                f"{values[0][0]} is {mean:+.1f} % off the truth in the mean of {len(values)} "
                f"animals; {allowed:g} % are allowed."
            )
        found.append(
            {
                "roi": values[0][0],
                "animals": len(values),
                "mean_percent": mean,
                "least_percent": min(percent for _, percent in values),
                "most_percent": max(percent for _, percent in values),
                "allowed_percent": allowed,
                "fault": fault,
            }
        )
    return found


def _times(planned: Sequence[PlannedStep], results: Mapping[str, StepResult]) -> dict[str, Any]:
    """Median and worst of the animals, which are all of one size."""
    rows = [
        results[step.name].times
        for step in planned
        if step.group == "animals" and "door_to_door_s" in results[step.name].times
    ]
    if not rows:
        return {"scans": 0, "median_s": None, "worst_s": None, "stages": {}}
    doors = [row["door_to_door_s"] for row in rows]
    return {
        "scans": len(rows),
        "median_s": statistics.median(doors),
        "worst_s": max(doors),
        "stages": {
            stage: statistics.median(row.get(stage, 0.0) for row in rows)
            for stage in DOOR_TO_DOOR_STAGES
        },
    }


def _slower(
    times: Mapping[str, Any], before: Mapping[str, Any] | None, tolerances: Tolerances
) -> str:
    old = before["times"].get("median_s") if before is not None else None
    new = times.get("median_s")
    if not old or not new or new <= old * (1.0 + tolerances.slower_percent / 100.0):
        return ""
    return (
        f"The median from door to door is {new:.1f} s, and was {old:.1f} s in the last report; "
        f"{tolerances.slower_percent:g} % more are allowed."
    )


def _verdict(
    made: Mapping[str, Any], planned: Sequence[PlannedStep], slower: str
) -> dict[str, Any]:
    """One word, and the sentences behind it."""
    failed = [
        f"{each['name']} ({each['animal']}): {fault}"
        for each in made["steps"]
        for fault in each["faults"]
    ]
    failed += [each["fault"] for each in made["means"] if each["fault"]]
    failed += [f"{each['animal']}: {each['fault']}" for each in made["seen"] if each["fault"]]
    failed += [slower] if slower else []
    again, missing = _sent_again(made), _missing(made, planned)
    if failed:
        sides = [each for each in failed if "left and right are exchanged" in each.lower()]
        # Exchanged sides are never tried until they pass.
        alone = not sides and any(each["faults"] for each in made["steps"])
        first = _failed_words(len(failed), len(sides))
        lines = [first, *failed, *([AGAIN] if alone else []), *again, *missing]
        return {"word": FAILED, "lines": lines}
    if missing:
        return {"word": INCOMPLETE, "lines": ["NOT COMPLETE: nothing failed.", *again, *missing]}
    first = f"PASSED: {len(planned)} phantoms, every one as it must be."
    return {"word": PASSED, "lines": [first, _scope(made), *again]}


def _sent_again(made: Mapping[str, Any]) -> list[str]:
    """Which steps a person had sent again, so that nobody takes the last try for the only one."""
    found = []
    for each in made["steps"]:
        if each["before"]:
            words = ", ".join(before["word"] for before in each["before"])
            found.append(f"{each['name']} was sent again; before: {words}.")
    return found


def _failed_words(failed: int, sides: int) -> str:
    if sides:
        times = "1 time" if sides == 1 else f"{sides} times"
        return (
            f"FAILED: LEFT AND RIGHT ARE EXCHANGED ({times}). Do not use this chain for any animal."
        )
    return f"FAILED: {failed} finding{'s' * (failed != 1)}."


def _scope(made: Mapping[str, Any]) -> str:
    to = made["run"]["identity"]["to"]
    if to:
        return f"The chain up to {', '.join(to)} and back was tried."
    return (
        "The node was tried up to its door. No planning system was part of it: "
        "`limn commission --to NAME` makes one so."
    )


def _missing(made: Mapping[str, Any], planned: Sequence[PlannedStep]) -> list[str]:
    """What was not done or not answered."""
    found = []
    left = len(steps()) - len(planned)
    if left:
        found.append(f"{left} of {len(steps())} phantoms of the plan were left out (--only).")
    roles = {organ["role"] for each in made["steps"] for organ in each["organs"]}
    if not roles >= LUNGS:
        found.append("Left and right were not told: the node does not draw both lungs.")
    if not made["times"]["scans"]:
        found.append("No time from door to door was measured.")
    if made["run"]["identity"]["to"]:
        went = {step.name for step in planned if step.may_leave}
        lacking = [
            each["name"]
            for each in made["steps"]
            if each["name"] in went and each["outcome"] == "delivered" and not each["back"]
        ]
        if lacking:
            found.append(f"The planning system returned nothing of {', '.join(lacking)}.")
        open_ones = sum(each["answer"] == "not answered" for each in made["seen"])
        if open_ones:
            found.append(f"{open_ones} questions on the planning system were not answered.")
        if lacking or open_ones:
            found.append(
                "Once that is known, the same command with --amend writes this report anew; no "
                "phantom is sent again."
            )
    return found


def write(run: CommissioningRun, made: Mapping[str, Any], planned: Sequence[PlannedStep]) -> Path:
    """Write page and JSON; returns the page. The JSON, written last, ends the run."""
    environment = Environment(
        loader=PackageLoader("limn.commission", "."),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(
        made=made,
        groups=[
            (title, [each for each in made["steps"] if each["group"] == group])
            for group, title in GROUPS.items()
        ],
        pictures=_pictures(run, made),
        chart=offsets_chart(made["steps"]),
        reasons=REASONS,
        drawn=str(Expected.DRAWN),
    )
    path = run.folder / PAGE
    write_durably(path, page.encode())
    write_durably(run.folder / REPORT, json.dumps(made, indent=1).encode())
    return path


def _pictures(run: CommissioningRun, made: Mapping[str, Any]) -> list[dict[str, str]]:
    """The node's pictures of what a person must look at, within the page."""
    found = []
    for each in made["steps"]:
        wanted = each["group"] in PICTURED or each["faults"] or each["outcome"] == "held"
        path = run.picture(each["name"])
        if wanted and path.is_file():
            found.append({"name": each["name"], "says": each["says"], "src": _jpeg(path)})
    return found


def _jpeg(path: Path) -> str:
    with Image.open(path, formats=["PNG"]) as image:
        small = image.convert("RGB")
        small.thumbnail((PICTURE_WIDE, PICTURE_WIDE), reducing_gap=2.0)
        made = io.BytesIO()
        small.save(made, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(made.getvalue()).decode()
