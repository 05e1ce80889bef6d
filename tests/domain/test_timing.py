import pytest

from limn.domain.records import ScanRecord
from limn.domain.timing import DOOR_TO_DOOR_STAGES, RUNTIME_STAGES, Stopwatch


def test_a_stage_lasts_from_its_start_to_its_end():
    """The stopwatch notes what its clock says and adds up a stage that comes twice."""
    ticks = iter([10.0, 12.5, 20.0, 20.25, 30.0, 31.0])
    stopwatch = Stopwatch(clock=lambda: next(ticks))
    for name in ("read_s", "trace_s", "read_s"):
        with stopwatch.stage(name):
            pass
    assert stopwatch.elapsed_s == {"read_s": 3.5, "trace_s": 0.25}


def test_a_stage_that_fails_is_timed_all_the_same():
    """The time of a stage counts when it ends in an exception, which goes on."""
    ticks = iter([1.0, 4.0])
    stopwatch = Stopwatch(clock=lambda: next(ticks))
    with pytest.raises(RuntimeError, match="broken"), stopwatch.stage("read_s"):
        raise RuntimeError("broken")
    assert stopwatch.elapsed_s == {"read_s": 3.0}


def test_stages_may_nest():
    """An inner stage is timed on its own and also inside the outer one."""
    ticks = iter([0.0, 1.0, 3.0, 7.0])
    stopwatch = Stopwatch(clock=lambda: next(ticks))
    with stopwatch.stage("outer_s"), stopwatch.stage("inner_s"):
        pass
    assert stopwatch.elapsed_s == {"inner_s": 2.0, "outer_s": 7.0}


def test_every_stage_is_a_column_of_the_record():
    """A record has a column for every stage, and the runtime is a part of door to door."""
    columns = ScanRecord.columns()
    assert columns[0] == "schema_version"
    assert set(DOOR_TO_DOOR_STAGES) <= set(columns)
    assert set(RUNTIME_STAGES) < set(DOOR_TO_DOOR_STAGES)
