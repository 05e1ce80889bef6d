from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limn.node.receive.completeness import (
    Arrivals,
    Opening,
    Rules,
    Verdict,
    decide,
    is_uniform,
    judge,
)

RULES = Rules(min_slices=5, settle_s=0.5, hold_s=30.0)
WHOLE = tuple(0.2 * k for k in range(10))
GAP = WHOLE[:4] + WHOLE[5:]
TWICE = (*WHOLE, WHOLE[3])
HOLD = "settle.hold_s"
BY_PACE = "more slices, by its pace so far"


def arrivals(**changes: object) -> Arrivals:
    """A whole series whose association was released, the last slice at 0 s."""
    return replace(Arrivals(WHOLE, None, 0, aborted=False, last_arrival_s=0.0), **changes)


def site_says(expected_slices: int) -> Rules:
    """A site that knows how many slices its scanner makes."""
    return replace(RULES, expected_slices=expected_slices)


COMPLETE = [
    ("quiet for settle_s", arrivals(), RULES, 0.5),
    ("quiet for long", arrivals(), RULES, 1000.0),
    ("exactly min_slices", arrivals(positions_mm=WHOLE[:5]), RULES, 0.5),
    ("the site's count, open", arrivals(open_associations=2), site_says(10), 0),
    ("the site's count, though aborted", arrivals(aborted=True), site_says(10), 0),
    ("fewer announced than came", arrivals(announced_slices=9), RULES, 0.5),
    ("backwards", arrivals(positions_mm=WHOLE[::-1]), RULES, 0.5),
    ("more than the site's count", arrivals(), site_says(9), 0.5),
    ("one association, whatever its pauses", arrivals(longest_pause_s=9.0), RULES, 0.5),
    ("many associations, a quick sender", arrivals(associations=10, longest_pause_s=0.1), RULES, 2),
    ("many associations, a slow sender", arrivals(associations=10, longest_pause_s=1.0), RULES, 8),
    ("few associations, a slow sender", arrivals(associations=2, longest_pause_s=9.0), RULES, 30),
    ("an idle association, for long", arrivals(openings=[Opening(0.3, receiving=False)]), RULES, 3),
    ("another association, much later", arrivals(openings=[Opening(9, receiving=True)]), RULES, 9),
]  # fmt: skip
WAITING = [
    ("not quiet yet", arrivals(), RULES, 0.49),
    ("an association is open", arrivals(open_associations=1), RULES, 1000.0),
    ("the header's count, open", arrivals(announced_slices=10, open_associations=1), RULES, 9),
    ("the header's count, aborted", arrivals(announced_slices=10, aborted=True), RULES, 29.9),
    (
        "fewer announced than min_slices",
        arrivals(positions_mm=WHOLE[:3], announced_slices=3),
        RULES,
        9,
    ),
    ("a quick sender between two", arrivals(associations=10, longest_pause_s=0.1), RULES, 1.9),
    ("a slow sender between two", arrivals(associations=10, longest_pause_s=1.0), RULES, 7.9),
    ("an association just opened", arrivals(openings=[Opening(0.3, receiving=False)]), RULES, 2.2),
    (
        "a slice on its way",
        arrivals(openings=[Opening(0.3, receiving=True, series="1")]),
        RULES,
        1000.0,
    ),
    ("a slice on its way, of which series", arrivals(openings=[Opening(0.3, True)]), RULES, 30.2),
    ("aborted, within hold_s", arrivals(aborted=True), RULES, 29.9),
    ("a gap", arrivals(positions_mm=GAP), RULES, 29.9),
    ("a position twice", arrivals(positions_mm=TWICE), RULES, 29.9),
    ("more announced than came", arrivals(announced_slices=11), RULES, 29.9),
    ("a gap, count reached", arrivals(positions_mm=GAP, announced_slices=9), RULES, 0.5),
    ("too few", arrivals(positions_mm=WHOLE[:4]), RULES, 29.9),
    ("fewer than the site's count", arrivals(), site_says(11), 29.9),
    ("a slice without position", arrivals(positions_mm=(*WHOLE, None)), RULES, 29.9),
    ("no position at all", arrivals(positions_mm=(None,) * 10), RULES, 29.9),
    ("one slice", arrivals(positions_mm=(0.0,)), RULES, 0.5),
    ("all at one place", arrivals(positions_mm=(1.0,) * 10), RULES, 0.5),
    ("not a number", arrivals(positions_mm=(*WHOLE, float("nan"))), RULES, 0.5),
]
GIVEN_UP = [
    ("aborted", arrivals(aborted=True), Verdict.GIVE_UP_ABORTED),
    ("aborted with a gap", arrivals(aborted=True, positions_mm=GAP), Verdict.GIVE_UP_ABORTED),
    ("a gap", arrivals(positions_mm=GAP), Verdict.GIVE_UP_INCOMPLETE),
    ("more announced than came", arrivals(announced_slices=11), Verdict.GIVE_UP_INCOMPLETE),
    ("too few", arrivals(positions_mm=WHOLE[:4]), Verdict.GIVE_UP_INCOMPLETE),
    ("a position twice", arrivals(positions_mm=TWICE), Verdict.GIVE_UP_INCOMPLETE),
    ("no positions", arrivals(positions_mm=(None,) * 9), Verdict.GIVE_UP_INCOMPLETE),
]


@pytest.mark.parametrize(
    ("came", "rules", "now_s"), [row[1:] for row in COMPLETE], ids=[row[0] for row in COMPLETE]
)
def test_complete(came, rules, now_s):
    """P2: by geometry and silence, or at once by a count."""
    assert decide(came, rules, now_s) is Verdict.COMPLETE


@pytest.mark.parametrize(
    ("came", "rules", "now_s"), [row[1:] for row in WAITING], ids=[row[0] for row in WAITING]
)
def test_wait(came, rules, now_s):
    """A series that may still become complete waits."""
    assert decide(came, rules, now_s) is Verdict.WAIT


@pytest.mark.parametrize(
    ("came", "verdict"), [row[1:] for row in GIVEN_UP], ids=[row[0] for row in GIVEN_UP]
)
def test_give_up_after_hold_s(came, verdict):
    """After hold_s the wait ends, and the verdict says why."""
    assert decide(came, RULES, 30.0) is verdict


def test_a_resend_after_an_abort_completes():
    """The last association decides: wait while it is aborted, complete after the resend."""
    assert decide(arrivals(aborted=True), RULES, 5.0) is Verdict.WAIT
    resent = arrivals(aborted=False, last_arrival_s=5.0)
    assert decide(resent, RULES, 5.4) is Verdict.WAIT
    assert decide(resent, RULES, 5.5) is Verdict.COMPLETE


@pytest.mark.parametrize("error_mm", [0.0, 0.0015, -0.0015])
def test_positions_written_with_few_decimals_are_uniform(error_mm):
    """Scanners round positions; 0.0015 mm of 0.2 mm is no gap."""
    assert is_uniform((*WHOLE[:5], WHOLE[5] + error_mm, *WHOLE[6:]))


def test_a_slice_clearly_off_its_place_is_not_uniform():
    """A tenth of the spacing is beyond any rounding."""
    assert not is_uniform((*WHOLE[:5], WHOLE[5] + 0.02, *WHOLE[6:]))


def stacks(least: int = 5) -> st.SearchStrategy[list[float]]:
    """Uniform stacks of slices at any position."""
    return st.builds(
        lambda start, spacing, count: [start + spacing * k for k in range(count)],
        st.floats(-500, 500),
        st.floats(0.02, 5),
        st.integers(least, 60),
    )


@given(stacks(), st.data())
def test_the_order_of_arrival_does_not_matter(stack, data):
    """Any order of slices gives the verdict of the sorted ones."""
    dropped = data.draw(st.sets(st.integers(0, len(stack) - 1), max_size=2))
    kept = [position for k, position in enumerate(stack) if k not in dropped]
    shuffled = data.draw(st.permutations(kept))
    now_s = data.draw(st.floats(0, 60))
    came = arrivals(positions_mm=kept)
    assert decide(replace(came, positions_mm=shuffled), RULES, now_s) is decide(came, RULES, now_s)


@given(
    stacks(7),
    st.data(),
    st.booleans(),
    st.none() | st.integers(1, 80),
    st.integers(0, 3),
    st.floats(0, 29.99),
)
def test_a_missing_slice_never_completes_before_hold_s(
    stack, data, aborted, announced, open_associations, now_s
):
    """With a gap nothing completes, whatever the count, the associations and the silence."""
    missing = data.draw(st.integers(1, len(stack) - 2))
    came = Arrivals(
        stack[:missing] + stack[missing + 1 :], announced, open_associations, aborted, 0.0
    )
    assert decide(came, RULES, now_s) is Verdict.WAIT


@given(stacks(), st.none() | st.integers(1, 80), st.integers(1, 4), st.floats(0, 1e6))
def test_an_open_association_completes_by_the_sites_count_alone(
    stack, count, open_associations, now_s
):
    """A count in a header ends no series while slices may still come; the site's own count does."""
    came = Arrivals(stack, count, open_associations, aborted=False, last_arrival_s=0.0)
    assert decide(came, RULES, now_s) is Verdict.WAIT
    whole = count == len(stack)
    site = replace(RULES, expected_slices=count)
    assert decide(came, site, now_s) is (Verdict.COMPLETE if whole else Verdict.WAIT)


@pytest.mark.parametrize(
    ("came", "now_s", "awaits", "until_s", "setting"),
    [
        (arrivals(announced_slices=20), 0.5, "20 slices, which its headers announce", 30.0, HOLD),
        (
            arrivals(positions_mm=WHOLE[:4]),
            0.5,
            "at least 5 slices (settle.min_slices)",
            30.0,
            HOLD,
        ),
        (arrivals(open_associations=1), 9.0, "the end of its association", None, ""),
        (arrivals(), 0.1, "more slices", 0.5, ""),
        (arrivals(associations=10, longest_pause_s=1.0), 1, BY_PACE, 8.0, "settle.settle_s"),
    ],
)
def test_a_series_that_waits_says_what_for_and_how_long(came, now_s, awaits, until_s, setting):
    """Half a minute of silence is explained from its beginning."""
    decision = judge(came, RULES, now_s)
    assert (decision.awaits, decision.until_s, decision.setting) == (awaits, until_s, setting)


@given(stacks(), st.floats(0, 60))
def test_an_aborted_series_waits_and_is_then_refused(stack, now_s):
    """Half a series is never contoured: wait hold_s for the resend, then give up."""
    verdict = decide(arrivals(positions_mm=stack, aborted=True), RULES, now_s)
    assert verdict is (Verdict.WAIT if now_s < RULES.hold_s else Verdict.GIVE_UP_ABORTED)


@given(stacks(), st.floats(0, 1e5), st.floats(0, 100))
def test_only_the_silence_counts_not_the_clock(stack, shift_s, quiet_s):
    """The same silence gives the same verdict at any time of the day."""
    came = arrivals(positions_mm=stack, last_arrival_s=round(shift_s))
    assert decide(came, RULES, round(shift_s) + round(quiet_s)) is decide(
        arrivals(positions_mm=stack), RULES, round(quiet_s)
    )
