"""The live view: every scan with its sleep, its progress and what a person must do."""

import io
import time

import pytest
from rich.console import Console

from limn.node.config import load_config
from limn.node.operate import watch
from limn.node.operate.watch import asleep, view
from limn.node.store.disk.receiving import ReceivingSeries, write_receiving
from limn.node.store.disk.running import RunningScan, write_running


def shown(site, width=150):
    """The view as text."""
    console = Console(file=io.StringIO(), width=width, emoji=False)
    console.print(view(site.config, time.time()))
    return console.file.getvalue()


def test_a_scan_that_runs_shows_how_far_it_is(site):
    """Stage, share, and when its contours are expected; below what a person must do."""
    row = site.scan(1)
    site.journal.started(row.id)
    held = site.contoured(2, held="mirrored [image]")
    now = time.time()
    write_running(
        load_config(site.config).running_path,
        [RunningScan(scan=row.id, stage="inference_s", share=0.43, ends_at=now + 9.0)],
        now,
    )
    text = shown(site)
    assert "inference 43%, contours about" in text
    assert "━" in text
    assert "mirrored [image]" in text
    assert f"{held.name}: look at its picture.png, then: limn release" in text
    assert "THE NODE IS STOPPED" in text


def test_a_series_that_comes_in_shows_from_its_first_slices(site):
    """With the count that its headers announce."""
    series = ReceivingSeries(
        animal="M[1]",
        sender="CT@10.0.0.1",
        series_instance_uid="1.2",
        since_utc="2026-11-30T10:00:00+00:00",
        slices=40,
        expected=200,
        waits_for="the end of its association",
        until_utc="",
    )
    write_receiving(load_config(site.config).receiving_path, [series], time.time())
    text = shown(site)
    assert "M[1]" in text
    assert "40 of 200 slices from CT@10.0.0.1; waits for the end of its association" in text


def test_an_empty_node_says_so(site):
    """In one line."""
    assert "nothing comes in, runs or waits" in shown(site)


@pytest.mark.parametrize(
    ("since", "words"),
    [
        ("2026-11-30T10:00:00+00:00", "12:31"),
        ("2026-11-30T10:12:31+00:00", "0:00"),
        ("2026-11-30T10:13:00+00:00", "0:00"),
        ("2026-11-30T08:10:00+00:00", "2:02:31"),
        ("2026-11-25T10:00:00+00:00", "5 days"),
        ("", ""),
    ],
)
def test_how_long_an_animal_has_slept(since, words):
    """Since its first slice, in minutes and seconds."""
    now = 1796033551.0
    assert time.strftime("%H:%M:%S", time.gmtime(now)) == "10:12:31"
    assert asleep(since, now) == words


def test_the_command_prints_once_where_there_is_no_terminal(site, capsys):
    """A script that reads it does not wait for ever."""
    assert "nothing comes in" in site.limn("watch")
    assert watch.EVERY_S < 1.0
