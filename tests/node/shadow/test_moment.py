"""When the shadow begins, goes on and gives up."""

import pytest

from limn.node.shadow.moment import BEGIN_BYTES, KEEP_BYTES, LULL_S, Moment, Step

IDLE = {"broken_by": "", "lull_s": LULL_S, "free_bytes": BEGIN_BYTES, "due": 1, "draws": False}


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({}, Step.BEGIN),
        ({"due": 0}, Step.WAIT),
        ({"lull_s": LULL_S - 0.1}, Step.WAIT),
        ({"broken_by": "slices come in"}, Step.WAIT),
        ({"free_bytes": BEGIN_BYTES - 1}, Step.WAIT),
        ({"draws": True}, Step.GO_ON),
        # Nothing more than what it draws is due, and its own networks take memory.
        ({"draws": True, "due": 0, "free_bytes": KEEP_BYTES}, Step.GO_ON),
        ({"draws": True, "broken_by": "scan-00003 waits or runs"}, Step.GIVE_UP),
        ({"draws": True, "free_bytes": KEEP_BYTES - 1}, Step.GIVE_UP),
    ],
)
def test_live_scans_come_first(changes, step):
    """Each reason alone decides."""
    assert Moment(**(IDLE | changes)).step() is step


def test_the_reason_is_said():
    """For the log."""
    assert Moment(**(IDLE | {"broken_by": "slices come in"})).why_not == "slices come in"
    assert Moment(**(IDLE | {"free_bytes": 2**30})).why_not == "1.0 GiB of memory are free"
    assert Moment(**IDLE).why_not == ""
