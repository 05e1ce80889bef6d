"""Errors that nobody expected: how long what brought one rests, and what is logged of it."""

from limn.node.surprises import LONGEST_PAUSE_S, MOST, Surprises, fault


def test_what_brings_an_error_again_and_again_rests_longer_each_time():
    """One second, then two, at most a minute; it is news once, and again with another error."""
    now_s = [0.0]
    surprises = Surprises(lambda: now_s[0])
    assert surprises.note("a", ValueError("x"))
    pauses = []
    for _ in range(9):
        began_s = now_s[0]
        while surprises.rests("a"):
            now_s[0] += 0.5
        pauses.append(now_s[0] - began_s)
        assert not surprises.note("a", ValueError("y"))
    assert pauses == [1, 2, 4, 8, 16, 32, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert (surprises.count("a"), surprises.rests("b"), surprises.count("b")) == (10, False, 0)
    assert surprises.note("a", KeyError("z"))
    assert surprises.why("a") == "a fault of limn (KeyError: 'z')"
    surprises.is_over("a")
    assert (surprises.rests("a"), surprises.why("a")) == (False, "")
    assert surprises.note("a", KeyError("z"))


def test_no_more_than_a_thousand_are_remembered():
    """The oldest goes first."""
    surprises = Surprises()
    for number in range(MOST + 5):
        surprises.note(number, ValueError())
    assert [surprises.count(number) for number in (4, 5, MOST + 4)] == [0, 1, 1]


def test_an_error_s_own_text_forges_no_line():
    """It may hold what a peer or a file's name says."""
    assert fault(ValueError("a\nb")) == r"a fault of limn (ValueError: a\nb)"
    assert fault(LookupError()) == "a fault of limn (LookupError)"
