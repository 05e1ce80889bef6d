"""Whether live scans leave a host alone."""

import time

from limn.node.config import load_config
from limn.node.store.disk.receiving import ReceivingSeries, write_receiving
from limn.node.store.disk.spool import SLOTS
from limn.node.store.journal.schema import LIVE
from limn.node.store.lull import ASK_S, QUIET_S, Lull
from tests.support.node.site import Site


class Clock:
    """A clock that a test moves."""

    now_s = 100.0

    def __call__(self):
        """The time."""
        return self.now_s


def coming(light=""):
    """A series that comes in, or an image that needs a person."""
    return ReceivingSeries(
        animal="M7",
        sender="CT",
        series_instance_uid="" if light else "1.2",
        since_utc="2026-11-30T10:00:00+00:00",
        slices=4,
        expected=None,
        waits_for="slices",
        until_utc="",
        light=light,
    )


def test_a_slice_a_series_and_a_scan_end_it(tmp_path, capsys):
    """Each by itself, at the next look; the first look never finds one."""
    site, clock = Site(tmp_path, capsys), Clock()
    config = load_config(site.config)
    slots = config.spool_dir / SLOTS
    slots.mkdir(parents=True)
    lull = Lull(config, site.journal, clock)
    assert lull.broken_by() == "slices come in"
    clock.now_s += QUIET_S
    assert lull.broken_by() == ""

    (slots / "slice").touch()
    assert lull.broken_by() == "slices come in"
    clock.now_s += QUIET_S - 0.1
    assert lull.broken_by() == "slices come in"
    # By now the receiver says that the series waits for the rest of it.
    write_receiving(config.receiving_path, [coming()], time.time())
    clock.now_s += 0.1
    assert lull.broken_by() == "a series of animal M7 comes in"
    write_receiving(config.receiving_path, [coming(light="red")], time.time())
    assert lull.broken_by() == ""

    row = site.scan(1)
    clock.now_s += ASK_S
    assert lull.broken_by() == f"{row.name} waits or runs"
    site.journal.end(row.id, "refused", "no", {})
    clock.now_s += ASK_S
    assert lull.broken_by() == ""
    site.journal.close()


def test_a_spool_that_nobody_has_made_yet(tmp_path, capsys):
    """The receiver makes it with the first slice."""
    site, clock = Site(tmp_path, capsys), Clock()
    lull = Lull(load_config(site.config), site.journal, clock)
    clock.now_s += QUIET_S
    assert lull.broken_by() == ""
    (site.data / "spool" / SLOTS).mkdir(parents=True)
    assert lull.broken_by() == "slices come in"
    site.journal.close()


def test_a_cohort_may_run_beside_what_a_person_waits_for(tmp_path, capsys):
    """A live scan may not."""
    site, clock = Site(tmp_path, capsys), Clock()
    lull = Lull(load_config(site.config), site.journal, clock, live_only=True)
    every = Lull(load_config(site.config), site.journal, clock)
    cohort = site.scan(1, priority=LIVE - 1)
    clock.now_s += QUIET_S
    assert lull.broken_by() == ""
    assert every.broken_by() == f"{cohort.name} waits or runs"
    live = site.scan(2)
    clock.now_s += ASK_S
    assert lull.broken_by() == every.broken_by() == f"{live.name} waits or runs"
    site.journal.close()
