"""Senders of any pace, on a simulated clock: one scan each, never half of one."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.dsutils import encode

from limn.dicom.instance import ReceivedInstance, SlicePlace
from limn.node.receive.completeness import Rules, Verdict
from limn.node.receive.gathering import Gathering, SettledSeries, Source
from limn.node.receive.open_associations import OpenAssociations
from limn.node.receive.settling import Settling

RULES = Rules(min_slices=20, settle_s=0.5, hold_s=30.0)
SENDER = "SCANNER@10.0.0.1"
COUNT = 40


def opening(number: int, series: str = "1") -> bytes:
    """The first bytes of a slice on the line."""
    ds = Dataset()
    ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyID = f"1.{number}", series, "1"
    return encode(ds, is_implicit_vr=True, is_little_endian=True)


def instance(number: int, announced: int | None = None) -> ReceivedInstance:
    """One slice of an animal, without its pixels."""
    place = SlicePlace((0.0, 0.0, 0.2 * number), (0.0, 0.0, 1.0))
    return ReceivedInstance(
        f"1.{number}", "1", "2", "M1", (place,), 0.0, announced, f"digest {number}"
    )


@dataclass
class Receiver:
    """The receiver's rooms without disk and network.

    Attributes
    ----------
    scans : every version that was handed over, and when
    """

    rules: Rules = RULES
    gathering: Gathering | None = None
    associations: OpenAssociations = field(default_factory=OpenAssociations)
    scans: list[tuple[SettledSeries, float]] = field(default_factory=list)
    several: set[str] = field(default_factory=set)
    now_s: float = 0.0
    tick_s: float = 0.05

    def wait_until(self, then_s: float) -> None:
        """Settle at every tick, as the receiver's own thread does."""
        settling = Settling(
            self.rules, lambda _uid, _digest: False, self.associations.openings, self.several
        )
        while self.now_s < then_s:
            gathering = self.gathering
            if gathering is not None and gathering.pending:
                settled = settling.settled(gathering, self.now_s)
                if settled is not None:
                    settling.remember(gathering)
                    self.scans.append((settled, self.now_s))
                    refused = settled.verdict is not Verdict.COMPLETE
                    gathering.mark_handed_over(settled.version, is_new=True, refused=refused)
            self.now_s += self.tick_s

    def opened(self, key: str) -> None:
        """The sender opens an association."""
        self.associations.opened(key, SENDER, self.now_s)

    def slice(
        self,
        key: str,
        number: int,
        takes_s: float,
        announced: int | None = None,
        uid: str | None = None,
    ) -> None:
        """One slice comes, from its first byte until it is on disk."""
        came = instance(number, announced)
        came = replace(came, sop_instance_uid=uid or came.sop_instance_uid)
        self.associations.instance_began(key, self.now_s)
        self.associations.part_came(key, opening(number), ImplicitVRLittleEndian)
        self.wait_until(self.now_s + takes_s)
        if self.gathering is None:
            self.gathering = Gathering.begin(came, None, self.now_s)
        source = Source(key, SENDER, self.rules.settle_s)
        began_s = self.associations.began_s(key)
        self.gathering.add(came, source, self.now_s, began_s=began_s)
        self.associations.named(key)
        self.associations.instance_ended(key)

    def ended(self, key: str, *, aborted: bool = False, missing: tuple[str, ...] = ()) -> None:
        """The association is released, or breaks off."""
        self.associations.ended(key)
        if self.gathering is not None and key in self.gathering.open_sources:
            self.gathering.end_source(key, self.now_s, aborted=aborted, missing=missing)


@dataclass(frozen=True)
class Pace:
    """How one sender sends; times in s.

    Attributes
    ----------
    slice_s : from one slice to the next
    takes_s : a slice on the line and to the disk
    chunk : slices for each association; None for all
    long_pause : one pause in ten is so many times as long
    abort_at : an association breaks off after this slice, and its slices are sent again
    """

    slice_s: float
    takes_s: float
    chunk: int | None
    long_pause: float
    abort_at: int | None


def paces() -> Iterator[Pace]:
    """Forty senders; a quarter keeps one association."""
    for seed in range(40):
        chance = random.Random(seed)  # noqa: S311 - no secret
        slice_s = 10 ** chance.uniform(-2, 0.7)
        yield Pace(
            slice_s=slice_s,
            takes_s=slice_s * chance.uniform(0.05, 0.9),
            chunk=None if seed % 4 == 0 else chance.choice([1, 1, 1, 2, 5]),
            long_pause=chance.uniform(1.0, min(3.0, 24.0 / slice_s)),
            abort_at=chance.randrange(5, COUNT) if seed % 5 == 1 else None,
        )


def send(receiver: Receiver, pace: Pace, seed: int) -> None:
    """Send a series as a sender of this pace does."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    starts = range(0, COUNT, pace.chunk or COUNT)
    for start, end in pairwise([*starts, COUNT]):
        key = f"association-{start}"
        receiver.opened(key)
        for number in range(start, end):
            receiver.slice(key, number, pace.takes_s)
            rest_s = max(0.0, pace.slice_s * chance.uniform(0.5, 1.5) - pace.takes_s)
            rest_s *= pace.long_pause if chance.random() < 0.1 else 1.0
            is_last = number == COUNT - 1
            if number == pace.abort_at:
                receiver.ended(key, aborted=True)
                receiver.wait_until(receiver.now_s + chance.uniform(1.0, 20.0))
                key = f"again-{start}"
                receiver.opened(key)
                for again in range(start, number + 1):
                    receiver.slice(key, again, pace.takes_s)
            if number < end - 1:
                receiver.wait_until(receiver.now_s + rest_s)
        receiver.ended(key)
        if not is_last:
            receiver.wait_until(receiver.now_s + rest_s)


@pytest.mark.parametrize(("seed", "pace"), [*enumerate(paces())])
def test_a_sender_of_any_pace_gives_one_whole_scan(seed, pace):
    """One association or one for each slice, pauses, breaks, resends: no half and none lost."""
    receiver = Receiver()
    send(receiver, pace, seed)
    last_s = receiver.now_s
    receiver.wait_until(last_s + 40.0)
    assert [len(settled.version.instances) for settled, _ in receiver.scans] == [COUNT]
    ((settled, at_s),) = receiver.scans
    assert settled.verdict is Verdict.COMPLETE
    if pace.chunk is None and pace.abort_at is None:
        assert at_s - last_s < 0.7


def test_a_count_of_one_acquisition_ends_no_scan_of_two():
    """ImagesInAcquisition says 30, and 40 slices come over one association at a steady pace."""
    receiver = Receiver()
    receiver.opened("one")
    for number in range(COUNT):
        receiver.slice("one", number, 0.05, announced=30)
    receiver.ended("one")
    receiver.wait_until(receiver.now_s + 1.0)
    assert [len(settled.version.instances) for settled, _ in receiver.scans] == [COUNT]


def test_a_very_slow_sender_at_a_site_that_waits_long():
    """A slice every 70 s; the site's hold_s is five minutes."""
    receiver = Receiver(Rules(min_slices=5, settle_s=0.5, hold_s=300.0), tick_s=1.0)
    for number in range(12):
        receiver.opened(f"association-{number}")
        receiver.slice(f"association-{number}", number, 0.1)
        receiver.ended(f"association-{number}")
        receiver.wait_until(receiver.now_s + (70.0 if number < 11 else 310.0))
    assert [len(settled.version.instances) for settled, _ in receiver.scans] == [12]


def test_an_idle_association_does_not_hold_a_series_up_for_ever():
    """The sender opens one more association after the last slice and leaves it open."""
    receiver = Receiver()
    send(receiver, Pace(0.1, 0.05, 1, 1.0, None), 1)
    receiver.opened("idle")
    last_s = receiver.now_s
    receiver.wait_until(last_s + 10.0)
    ((settled, at_s),) = receiver.scans
    assert len(settled.version.instances) == COUNT
    assert at_s - last_s < 3.0


def test_the_last_slice_that_comes_slowly_counts_from_its_first_byte():
    """Nineteen quick slices are even; the last needs a minute on the line."""
    receiver = Receiver(Rules(min_slices=5, settle_s=0.5, hold_s=30.0))
    for number in range(20):
        receiver.opened(f"association-{number}")
        receiver.slice(f"association-{number}", number, 60.0 if number == 19 else 0.05)
        receiver.ended(f"association-{number}")
    receiver.wait_until(receiver.now_s + 40.0)
    assert [len(settled.version.instances) for settled, _ in receiver.scans] == [20]


def test_a_sender_of_large_parts_is_known_from_its_first_series_on():
    """Twenty slices an association look whole; the second series of this sender gives one scan."""
    receiver = Receiver()
    parts = Pace(1.0, 0.1, 20, 1.0, None)
    send(receiver, parts, 1)
    receiver.wait_until(receiver.now_s + 40.0)
    assert [len(settled.version.instances) for settled, _ in receiver.scans] == [20, COUNT]
    receiver.gathering, receiver.scans = None, []
    send(receiver, parts, 2)
    receiver.wait_until(receiver.now_s + 40.0)
    assert [len(settled.version.instances) for settled, _ in receiver.scans] == [COUNT]


def test_a_sender_that_keeps_one_association_again_is_quick_again():
    """After one series in parts comes one over one association, and then the next."""
    receiver = Receiver()
    waited_s = []
    for chunk in (5, None, None):
        receiver.gathering, receiver.scans = None, []
        send(receiver, Pace(0.1, 0.05, chunk, 1.0, None), 1)
        last_s = receiver.now_s
        receiver.wait_until(last_s + 40.0)
        ((_, at_s),) = receiver.scans
        waited_s.append(at_s - last_s)
    assert waited_s[0] > 2.0
    assert waited_s[1] > 1.9
    assert waited_s[2] < 0.7


@pytest.mark.parametrize("odd", [None, 1, COUNT - 1, 10**12])
def test_one_odd_count_does_not_take_the_others_word_away(odd):
    """All slices but the first announce 40; after 20 of them the sender rests for ten seconds."""
    receiver = Receiver()
    for start in (0, 20):
        key = f"association-{start}"
        receiver.opened(key)
        for number in range(start, start + 20):
            receiver.slice(key, number, 0.05, announced=COUNT if number else odd)
        receiver.ended(key)
        receiver.wait_until(receiver.now_s + 10.0)
    receiver.wait_until(receiver.now_s + 40.0)
    assert [len(settled.version.instances) for settled, _ in receiver.scans] == [COUNT]


@pytest.mark.parametrize(
    ("announced", "expected"),
    [
        (lambda number: number + 1, 0.5),
        (lambda number: COUNT if number < 20 else 2 * COUNT, 0.5),
        (lambda _: 10**12, RULES.hold_s),
    ],
    ids=["counted up", "two acquisitions", "more than can be"],
)
def test_counts_that_disagree_or_can_not_be_cost_at_most_the_longest_wait(announced, expected):
    """Whatever the headers announce, every slice that came is contoured."""
    receiver = Receiver()
    receiver.opened("one")
    for number in range(COUNT):
        receiver.slice("one", number, 0.05, announced=announced(number))
    receiver.ended("one")
    last_s = receiver.now_s
    receiver.wait_until(last_s + 1.1 * RULES.hold_s)
    ((settled, at_s),) = receiver.scans
    assert len(settled.version.instances) == COUNT
    assert settled.verdict is not Verdict.GIVE_UP_ABORTED
    assert at_s - last_s == pytest.approx(expected, abs=0.3)


def chunk(receiver: Receiver, key: str, numbers: range, **end: object) -> None:
    """An association brings these slices and ends."""
    receiver.opened(key)
    for number in numbers:
        receiver.slice(key, number, 0.02)
    receiver.ended(key, **end)


def counts(receiver: Receiver) -> list[tuple[Verdict, int]]:
    """What was handed over, after a long wait."""
    receiver.wait_until(receiver.now_s + 60.0)
    return [(settled.verdict, len(settled.version.instances)) for settled, _ in receiver.scans]


def test_other_parts_of_a_series_mend_no_association_that_broke_off():
    """A sender of three parts: the top one breaks off, and the two below come whole."""
    receiver = Receiver()
    chunk(receiver, "top", range(40, 55), aborted=True)
    chunk(receiver, "bottom", range(20))
    chunk(receiver, "middle", range(20, 40))
    assert counts(receiver) == [(Verdict.GIVE_UP_ABORTED, 55)]


@pytest.mark.parametrize("rest", [range(55, 60), range(40, 60)], ids=["goes on", "begins again"])
def test_an_association_that_goes_on_or_begins_again_mends_one_that_broke_off(rest):
    """Whatever else came between."""
    receiver = Receiver()
    chunk(receiver, "top", range(40, 55), aborted=True)
    chunk(receiver, "bottom", range(40))
    chunk(receiver, "again", rest)
    assert counts(receiver) == [(Verdict.COMPLETE, 60)]


def test_a_descending_stack_goes_on_below():
    """The edge is where the last slice lay."""
    receiver = Receiver()
    chunk(receiver, "first", range(59, 29, -1), aborted=True)
    chunk(receiver, "second", range(29, -1, -1))
    assert counts(receiver) == [(Verdict.COMPLETE, 60)]


def test_slices_that_were_not_taken_are_waited_for():
    """Another association that brings a slice once more, or other slices, is no resend of them."""
    receiver = Receiver()
    lost = tuple(f"1.{number}" for number in range(55, 60))
    chunk(receiver, "all", range(55), missing=lost)
    chunk(receiver, "known", range(1))
    receiver.wait_until(receiver.now_s + 10.0)
    assert receiver.scans == []
    chunk(receiver, "rest", range(55, 60))
    assert counts(receiver) == [(Verdict.COMPLETE, 60)]


def test_one_whole_stack_under_new_uids_mends_what_broke_off():
    """A sender that writes the export anew after a break gives each slice another UID."""
    receiver = Receiver()
    chunk(receiver, "first", range(30), aborted=True)
    receiver.opened("again")
    for number in range(60):
        receiver.slice("again", number, 0.02, uid=f"2.{number}")
    receiver.ended("again")
    assert counts(receiver)[0] == (Verdict.COMPLETE, 60)


def test_many_breaks_of_the_same_sender_are_one():
    """It begins at its first slice each time, and gets a little further."""
    receiver = Receiver()
    for count in range(5, 45):
        chunk(receiver, f"try {count}", range(count), aborted=True)
    assert receiver.gathering is not None
    assert len(receiver.gathering.breaks) == 1
    chunk(receiver, "whole", range(60))
    assert counts(receiver) == [(Verdict.COMPLETE, 60)]


def test_what_came_over_another_association_is_not_missing():
    """Refused for want of room, and sent again beside it before the release."""
    receiver = Receiver()
    receiver.opened("beside")
    receiver.opened("first")
    for number in range(39):
        receiver.slice("first", number, 0.02)
    receiver.slice("beside", 39, 0.02)
    receiver.ended("first", missing=("1.39",))
    receiver.ended("beside")
    assert counts(receiver) == [(Verdict.COMPLETE, 40)]


def test_an_opening_of_another_series_holds_nothing_up():
    """A scanner goes on with its next series, of which the first slice takes minutes."""
    receiver = Receiver()
    chunk(receiver, "whole", range(40))
    receiver.opened("next")
    receiver.associations.instance_began("next", receiver.now_s)
    receiver.associations.part_came("next", opening(1, "1.2.3"), ImplicitVRLittleEndian)
    done_s = receiver.now_s
    assert counts(receiver) == [(Verdict.COMPLETE, 40)]
    ((_, at_s),) = receiver.scans
    assert at_s - done_s < 0.7


def version_after(first: range, then: range, *, other: int = 0) -> list[tuple[Verdict, int]]:
    """What is handed over of slices that come after others were contoured.

    Parameters
    ----------
    other : added to the numbers of the later UIDs, so that they are other instances
    """
    receiver = Receiver()
    chunk(receiver, "first", first)
    receiver.wait_until(receiver.now_s + 10.0)
    gathering = receiver.gathering
    assert gathering is not None
    gathering.mark_handed_over(gathering.next_version(5), is_new=True, refused=False)
    receiver.scans.clear()
    for number in then:
        gathering.add(
            replace(instance(number), sop_instance_uid=f"1.{number + other}"),
            Source("then", SENDER, receiver.rules.settle_s),
            receiver.now_s,
        )
    gathering.end_source("then", receiver.now_s, aborted=False)
    return counts(receiver)


def test_late_slices_alone_are_no_animal():
    """The slice between them and the first ones never came."""
    assert version_after(range(40), range(41, 80)) == [(Verdict.GIVE_UP_INCOMPLETE, 79)]
    assert version_after(range(40), range(40, 80)) == [(Verdict.COMPLETE, 80)]


def test_half_a_reconstruction_under_the_old_uid_is_no_animal():
    """One that is whole replaces the old one; it may have another spacing."""
    assert version_after(range(80), range(40), other=1000) == [(Verdict.GIVE_UP_INCOMPLETE, 120)]
    assert version_after(range(80), range(80), other=1000) == [(Verdict.COMPLETE, 80)]
    assert version_after(range(81), range(0, 81, 2), other=1000) == [(Verdict.COMPLETE, 41)]
