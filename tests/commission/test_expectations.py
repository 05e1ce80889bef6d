"""Each kind of step passes by what it must, and fails by a sentence."""

from dataclasses import replace

import pytest

from limn.commission import plan
from limn.commission.expectations import UNMEASURED, step_faults
from limn.commission.tolerances import Tolerances
from tests.commission.test_report import ORGANS, result

WRONG = (replace(ORGANS[0], offset_xyz_mm=(3.0, 0.0, 0.0)), *ORGANS[1:])
MOVED = "Heart lies +3.00 mm off along x (left-right) in what the node sent; 0.6 mm are allowed."


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("lie-ffp", {}, []),
        ("lie-ffp", {"organs": WRONG}, [MOVED]),
        ("lie-ffp", {"organs": WRONG, "light": "amber"}, [MOVED]),
        (
            "lie-ffp",
            {"outcome": "held", "reason": "in doubt?"},
            ["It must be contoured and delivered, and it was held: in doubt."],
        ),
        (
            "lie-ffp",
            {"outcome": "lost", "reason": "nothing came"},
            ["The node did not finish it: it was lost: nothing came."],
        ),
        ("mirrored-x", {"flags": "mirrored:SPR"}, []),
        (
            "mirrored-x",
            {"flags": "folds-disagree"},
            ["Its flags must have mirrored; they are folds-disagree."],
        ),
        (
            "mirrored-x",
            {"outcome": "delivered"},
            ["It must be held until a person looks, and it was delivered."],
        ),
        ("no-rescale", {"reason": "RescaleSlope absent"}, []),
        ("no-rescale", {"outcome": "refused at the door", "taken": 0}, []),
        (
            "no-rescale",
            {"reason": "5 slices came"},
            ["The reason must name RescaleSlope, and it was refused: 5 slices came."],
        ),
        ("no-rescale", {"outcome": "delivered"}, ["It must be refused, and it was delivered."]),
        ("gap-aside", {"flags": "gap:37-38:1 demo-bundle"}, []),
        ("gap-aside", {}, ["Its flags must have gap; they are demo-bundle."]),
        ("gap", {"reason": "2 slices missing between slices 50 and 51, in Heart"}, []),
        (
            "gap",
            {"outcome": "delivered"},
            ["It must be refused, and it was delivered."],
        ),
        ("abdomen-only", {"outcome": "failed", "reason": "no organ was found; is"}, []),
        (
            "abdomen-only",
            {"outcome": "failed", "reason": "out of memory"},
            ["The node did not finish it: it was failed: out of memory."],
        ),
        (
            "metal",
            {"outcome": "failed", "reason": "no organ was found"},
            ["The node did not finish it: it was failed: no organ was found."],
        ),
        ("lie-ffp", {"organs": ()}, ["None of its organs could be measured."]),
        ("two-animals", {"organs": WRONG, "flags": "animals:2"}, []),
        ("two-animals", {"organs": WRONG}, [MOVED]),
        ("metal", {}, []),
        ("metal", {"organs": WRONG}, [MOVED]),
        ("metal", {"organs": WRONG, "light": "amber"}, []),
        ("metal", {"organs": (), "outcome": "refused"}, []),
        ("empty", {"organs": ()}, [UNMEASURED]),
        ("empty", {"organs": (), "light": "amber"}, []),
    ],
)
def test_a_step_passes_by_what_it_must(name: str, changes: dict, said: list[str]) -> None:
    """Drawn, held, refused with the reason, or warned."""
    (step,) = plan.chosen([name])
    assert step_faults(step, result(step, **changes), Tolerances()) == said
