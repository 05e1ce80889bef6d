"""The plan has every lie, every stack and every fault, and no animal's name."""

import pytest

from limn.commission import plan
from limn.commission.tolerances import REASONS, Tolerances, own_tolerances
from limn.domain.errors import ConfigWrong
from limn.domain.scan import Role
from limn.lab.phantoms.orientation import POSITIONS, STACKS
from limn.lab.phantoms.quirks import QUIRKS
from limn.node.commissioning import is_commissioning
from limn.phantom.faults import FAULTS


def test_every_step_has_a_name_of_its_own_that_no_animal_has():
    """Names end in PatientIDs, which have 64 characters (PS3.5 6.2)."""
    names = [step.name for step in plan.steps()]
    assert len(set(names)) == len(names)
    assert all(is_commissioning(step.animal) for step in plan.steps())
    assert max(len(step.animal) for step in plan.steps()) <= 64
    assert {step.group for step in plan.steps()} == set(plan.GROUPS)


def test_every_lie_stack_and_quirk_is_in_it():
    """What is left out changes no byte that a C-STORE carries, or the PatientID."""
    steps = plan.steps()
    assert {s.request.position for s in steps if s.group == "lies"} == set(POSITIONS)
    assert {s.request.stack for s in steps} == set(STACKS)
    quirks = {name for step in steps for name in step.request.quirks}
    assert quirks | set(plan.LEFT_OUT) == set(QUIRKS)
    assert not quirks & set(plan.LEFT_OUT)
    assert set(plan.IMAGE_FAULTS) <= set(FAULTS)


def test_a_person_chooses_steps_or_groups_in_the_order_of_the_plan():
    """An unknown name is refused with the groups."""
    found = [step.name for step in plan.chosen(["lie-ffp", "voxels", "animal-2"])]
    assert found == ["animal-2", "lie-ffp", "voxels-140", "voxels-250", "voxels-300"]
    assert plan.chosen([]) == plan.steps()
    with pytest.raises(ConfigWrong, match=r"--only lie-xyz: no such step in this plan; groups "):
        plan.chosen(["lie-xyz"])
    few = plan.chosen(["animals", "lie-ffp"])
    assert [step.name for step in plan.named("--again", ["lies", "animal-2"], few)] == [
        "animal-2",
        "lie-ffp",
    ]
    with pytest.raises(ConfigWrong, match=r"--again lie-hfs: no such step in this plan"):
        plan.named("--again", ["lie-hfs"], few)


def test_another_plan_has_another_digest():
    """So that a run goes on only with the same phantoms."""
    assert plan.digest(plan.chosen(["lies"])) != plan.digest(plan.chosen(["stacks"]))
    assert plan.digest(plan.steps()) == plan.digest(plan.steps())


def test_a_site_sets_its_own_tolerances():
    """Each has a reason; a wrong name or value is named."""
    assert set(REASONS) == set(Tolerances.__dataclass_fields__)
    own = own_tolerances({"cord_dsc": 0.6, "position_mm": 1})
    assert own.least_dsc(Role.CORD) == 0.6
    assert own.offset_mm(Role.HEART, 2) == 1.0
    assert own.offset_mm(Role.CORD, 2) == Tolerances().cord_end_mm
    with pytest.raises(ConfigWrong, match=r"tolerances\.sides is no tolerance"):
        own_tolerances({"sides": 1})
    with pytest.raises(ConfigWrong, match=r"tolerances\.cord_dsc is '0\.6': a number above 0"):
        own_tolerances({"cord_dsc": "0.6"})
