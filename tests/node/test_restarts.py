"""A process that ends again and again is named."""

import sys
from pathlib import Path

import pytest

from limn.node.restarts import FRESH_S, LOOP, OFTEN_S, RestartLoop, loop_noted
from limn.node.serve import child
from limn.node.serve.child import ChildProcess


def test_three_ends_in_a_row_are_a_loop(tmp_path: Path) -> None:
    """The note is there from the third on, and goes when the process has run for long."""
    note = tmp_path / "receiver.restarts"
    loop = RestartLoop("receiver", note)
    for _ in range(LOOP - 1):
        loop.ended(1)
    assert loop.line == loop_noted(note) == ""
    loop.ended(4)
    assert loop.line == loop_noted(note)
    assert loop.line.startswith("receiver has ended 3 times in a row soon after its start (exit co")
    assert loop_noted(note, note.stat().st_mtime + FRESH_S + 1) == ""
    loop.is_over()
    assert loop.line == loop_noted(note) == ""


def test_a_process_that_ends_every_ten_minutes_ends_often() -> None:
    """Each run is long, so it is no loop; an hour after the first of three ends it is over."""
    now_s = 0.0
    loop = RestartLoop("engine", None, lambda: now_s)
    for _ in range(3):
        assert loop.often == ""
        now_s += 600.0
        loop.ended(1)
        loop.is_over()
    assert loop.line == ""
    assert loop.often.startswith("engine has ended 3 times or more within 60 minutes (exit code 1)")
    now_s += OFTEN_S - 1200.0
    assert loop.often
    now_s += 1.0
    assert loop.often == ""


def test_a_note_that_finds_no_room_ends_nothing(tmp_path: Path) -> None:
    """The page has the line all the same."""
    loop = RestartLoop("receiver", tmp_path / "absent" / "note")
    for _ in range(LOOP):
        loop.ended(1)
    assert loop.line
    loop.is_over()


def test_the_supervisor_s_child_counts_its_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies at each start until it is mended; then it runs and the loop is over."""
    monkeypatch.setattr(child, "RESTART_S", 0.0)
    code = tmp_path / "code.py"
    code.write_text("raise SystemExit(7)")
    note = tmp_path / "receiver.restarts"
    loop = RestartLoop("receiver", note)
    made = ChildProcess("receiver", (sys.executable, "-S", str(code)), {}, None, loop)
    made._pause_s = 0.0
    while made.restarts < LOOP:
        made.keep_alive()
    assert "3 times in a row" in loop_noted(note)
    assert "(exit code 7)" in loop.line
    code.write_text("import time; time.sleep(60)")
    made.keep_alive()
    made.keep_alive()
    assert made.runs
    monkeypatch.setattr(child, "STABLE_S", 0.0)
    made.keep_alive()
    assert loop.line == loop_noted(note) == ""
    made.stop(5.0)
