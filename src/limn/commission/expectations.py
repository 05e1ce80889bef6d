"""What became of a step, against what was expected of it (D-271)."""

from __future__ import annotations

from limn.commission.measuring import faults, truth_exchanged
from limn.commission.plan import Expected, PlannedStep
from limn.commission.record import StepResult
from limn.commission.tolerances import Tolerances

AT_THE_DOOR = "refused at the door"
REFUSED = ("refused", AT_THE_DOOR)
UNMEASURED = "It went out without a warning, and nothing of it could be measured."
UNFINISHED = ("lost", "failed", "quarantined")


def step_faults(step: PlannedStep, result: StepResult, tolerances: Tolerances) -> list[str]:
    """What is not as it must be, each as a sentence; none if the step passed."""
    if result.outcome in UNFINISHED and not _found_nothing(step, result):
        return [f"The node did not finish it: {_ended(result)}."]
    if step.expected is Expected.HELD:
        return _not_held(step, result)
    if step.expected is Expected.REFUSED:
        return _not_refused(step, result)
    wrong = list(faults(result.organs, tolerances, "what the node sent"))
    if step.expected is Expected.WARNED:
        return _not_warned(step, result, wrong)
    if result.outcome != "delivered":
        return [f"It must be contoured and delivered, and {_ended(result)}."]
    wrong += [why] if (why := truth_exchanged(result.organs)) else []
    if not result.organs:
        wrong.append("None of its organs could be measured.")
    return wrong + _lacks_flag(step, result)


def _not_held(step: PlannedStep, result: StepResult) -> list[str]:
    if result.outcome != "held":
        return [f"It must be held until a person looks, and {_ended(result)}."]
    return _lacks_flag(step, result)


def _not_warned(step: PlannedStep, result: StepResult, wrong: list[str]) -> list[str]:
    """What went out without a warning and is wrong, or was not measured."""
    warned = result.light in ("amber", "red") or step.flag in _flags(result)
    if warned or result.outcome in ("held", *REFUSED) or _found_nothing(step, result):
        return []
    return wrong if result.organs else [UNMEASURED]


def _found_nothing(step: PlannedStep, result: StepResult) -> bool:
    """Whether the scan failed for the reason that the step lets it have."""
    may = step.expected is Expected.WARNED and bool(step.flag)
    return may and result.outcome == "failed" and step.flag in result.reason


def _lacks_flag(step: PlannedStep, result: StepResult) -> list[str]:
    if not step.flag or step.flag in _flags(result):
        return []
    return [f"Its flags must have {step.flag}; they are {result.flags or 'none'}."]


def _flags(result: StepResult) -> set[str]:
    return {each.partition(":")[0] for each in result.flags.split()}


def _not_refused(step: PlannedStep, result: StepResult) -> list[str]:
    if result.outcome not in REFUSED:
        return [f"It must be refused, and {_ended(result)}."]
    if result.outcome == AT_THE_DOOR or step.flag in result.reason:
        return []
    return [f"The reason must name {step.flag}, and {_ended(result)}."]


def _ended(result: StepResult) -> str:
    """Without an end of its own: the sentence that it ends has one."""
    reason = result.reason.rstrip(".?")
    return f"it was {result.outcome}" + (f": {reason}" if reason else "")
