"""What became of a step, against what was expected of it (D-271)."""

from __future__ import annotations

from limn.commission.measuring import faults
from limn.commission.plan import Expected, PlannedStep
from limn.commission.record import StepResult
from limn.commission.tolerances import Tolerances

AT_THE_DOOR = "refused at the door"
REFUSED = ("refused", AT_THE_DOOR)
UNFINISHED = ("lost", "failed", "quarantined")


def step_faults(step: PlannedStep, result: StepResult, tolerances: Tolerances) -> list[str]:
    """What is not as it must be, each as a sentence; none if the step passed."""
    if result.outcome in UNFINISHED:
        return [f"The node did not finish it: {_ended(result)}."]
    wrong = list(faults(result.organs, tolerances, "what the node sent"))
    flags = {each.partition(":")[0] for each in result.flags.split()}
    if step.expected is Expected.WARNED:
        warned = result.light in ("amber", "red") or step.flag in flags
        return [] if warned or result.outcome in ("held", *REFUSED) else wrong
    if step.expected is Expected.HELD:
        held = result.outcome == "held"
        return [] if held else [f"It must be held until a person looks, and {_ended(result)}."]
    if step.expected is Expected.REFUSED:
        return _not_refused(step, result)
    if result.outcome != "delivered":
        return [f"It must be contoured and delivered, and {_ended(result)}."]
    if not result.organs:
        wrong.append("None of its organs could be measured.")
    if step.flag and step.flag not in flags:
        wrong.append(f"Its flags must have {step.flag}; they are {result.flags or 'none'}.")
    return wrong


def _not_refused(step: PlannedStep, result: StepResult) -> list[str]:
    if result.outcome not in REFUSED:
        return [f"It must be refused, and {_ended(result)}."]
    if result.outcome == AT_THE_DOOR or step.flag in result.reason:
        return []
    return [f"The reason must name {step.flag}, and {_ended(result)}."]


def _ended(result: StepResult) -> str:
    return f"it was {result.outcome}" + (f": {result.reason}" if result.reason else "")
