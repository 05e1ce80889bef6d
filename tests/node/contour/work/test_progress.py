"""How far a job is: each stage is told, tiles a few times a second."""

from limn.domain.timing import Stopwatch
from limn.node.contour.work.progress import TOLD_EVERY_S, Progress, Told


def test_stages_are_told_as_they_begin_and_tiles_now_and_then():
    """The last tile always is."""
    said, now = [], [0.0]
    progress = Progress(said.append, lambda: now[0])
    stopwatch = Stopwatch(began=progress.stage)
    with stopwatch.stage("read_s"):
        pass
    with stopwatch.stage("inference_s"):
        for done in range(1, 11):
            now[0] += TOLD_EVERY_S / 4
            progress.tiles(done, 10)
    assert [each.stage for each in said][:2] == ["read_s", "inference_s"]
    tiles = [each.done for each in said if each.of]
    assert tiles == [4, 8, 10]
    assert said[-1] == Told(stage="inference_s", done=10, of=10)


def test_a_stage_that_goes_on_is_told_once():
    """It is measured in pieces."""
    said = []
    progress = Progress(said.append)
    for _ in range(3):
        progress.stage("preprocess_s")
    assert said == [Told(stage="preprocess_s")]
