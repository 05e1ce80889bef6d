"""Accounts of the board: the command, the file, sign-in, sessions and the waits between tries."""

import io
import json
import logging
import os
import re
import stat
import sys
import time

import pytest

from limn.cli import main
from limn.domain.errors import ConfigWrong
from limn.node.board.accounts import passwords, tries
from limn.node.board.accounts.passwords import PasswordDesk, TooManySignIns
from limn.node.board.accounts.register import Register
from limn.node.board.accounts.sessions import MOST_OF_ACCOUNT, MOST_SESSIONS, Sessions
from limn.node.board.accounts.tries import FREE, LONGEST_S, MOST_KEPT, Tries
from limn.node.board.app import Board
from limn.node.board.guard import COOKIE, SECURE_COOKIE
from limn.node.config import load_config
from limn.node.store.disk.board_accounts import Account, account_name, read_accounts
from tests.node.board.conftest import (
    PASSWORDS,
    PORT,
    browser_of,
    give_accounts,
    open_to_others,
    sign_in,
    token_of,
)


def board_command(monkeypatch, site, *arguments, typed=""):
    """`limn board` without a terminal; its exit code."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    return main.main(["board", *arguments, "--config", str(site.config)])


def test_the_command_makes_changes_and_removes_accounts(site, capsys, monkeypatch):
    """The file is its owner's, has no password, and says argon2id."""
    typed = "long enough"
    assert board_command(monkeypatch, site, "add", "Anna", "--role", "act", typed=typed) == 0
    path = load_config(site.config).board_accounts_path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert typed not in path.read_text()
    first = read_accounts(path)["Anna"]
    assert first.role == "act"
    assert re.match(r"\$argon2id\$v=19\$m=65536,t=3,p=4\$", first.hashed)
    assert (
        board_command(monkeypatch, site, "add", "Anna", "--role", "look", typed="quite another")
        == 0
    )
    second = read_accounts(path)["Anna"]
    assert second.role == "look"
    assert second.hashed != first.hashed
    assert board_command(monkeypatch, site, "list") == 0
    assert "look  Anna" in capsys.readouterr().out
    assert board_command(monkeypatch, site, "remove", "Anna") == 0
    assert read_accounts(path) == {}
    assert board_command(monkeypatch, site, "remove", "Anna") == 1
    assert "no such account" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "password", "why"),
    [
        ("Anna", "too short", "10 to 200 expected"),
        ("Anna", "x" * 201, "10 to 200 expected"),
        ("<script>", "long enough", "letters, digits, blanks"),
        ("An\nna\x1b[2J", "long enough", "letters, digits, blanks"),
        ("NAME", "long enough", "write your own words"),
        ("A" * 65, "long enough", "64 at most"),
        ("...", "long enough", "is empty"),
    ],
)
def test_an_account_that_is_not_made(site, capsys, monkeypatch, name, password, why):
    """Says why, and writes nothing."""
    assert board_command(monkeypatch, site, "add", name, "--role", "act", typed=password) == 1
    assert why in capsys.readouterr().err
    assert not load_config(site.config).board_accounts_path.exists()


def test_two_names_that_differ_in_case_alone(site, capsys, monkeypatch):
    """One person would sign for the other."""
    give_accounts(site, "Anna")
    assert board_command(monkeypatch, site, "add", "anna", "--role", "act", typed="1234567890") == 1
    assert "there is Anna already" in capsys.readouterr().err


def test_passwords_that_differ_at_the_terminal(site, capsys, monkeypatch):
    """Are typed twice; nothing is written if they differ."""
    typed = iter(["one password", "another password"])
    monkeypatch.setattr("getpass.getpass", lambda _: next(typed))
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda _: True})())
    assert main.main(["board", "add", "Anna", "--role", "act", "--config", str(site.config)]) == 1
    assert "the two passwords differ" in capsys.readouterr().err


def test_names_are_one_however_they_are_typed():
    """A letter with its accent, and blanks."""
    assert account_name("  Ju\u0308rgen   B.") == "J\u00fcrgen B."


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"accounts": {"Anna": {"role": "root"}}}', "x"])
def test_a_damaged_file_lets_nobody_in(site, text, caplog):
    """Not even at this computer, where nobody was asked before; the log says it once."""
    path = load_config(site.config).board_accounts_path
    path.write_text(text)
    path.chmod(0o600)
    register = Register(path, must_ask=False)
    assert (register.asks, dict(register.accounts())) == (True, {})
    assert caplog.text.count("so nobody can sign in") == 1
    with pytest.raises(ConfigWrong, match="limn board add"):
        read_accounts(path)


@pytest.mark.skipif(os.name != "posix", reason="Windows has the folder's access list")
def test_a_file_that_others_read_lets_nobody_in(site):
    """Its hashes may be known."""
    path = give_accounts(site)
    path.chmod(0o644)
    assert (Register(path, must_ask=False).asks, Register(path, must_ask=False).accounts()) == (
        True,
        {},
    )
    with pytest.raises(ConfigWrong, match="chmod 600"):
        read_accounts(path)


def test_this_computer_asks_once_there_are_accounts(site, browser):
    """As before without; with them nobody gets a page, and a name is not typed any more."""
    row = site.contoured(1, held="why")
    assert browser.get("/").status_code == 200
    give_accounts(site)
    assert browser.get("/history").status_code == 401
    assert sign_in(browser, "Anna").status_code == 303
    page = browser.get(f"/{row.name}")
    assert 'name="by"' not in page.text
    form = {"token": token_of(page), "why": "looked", "by": "Somebody Else"}
    assert browser.post(f"/{row.name}/release", data=form).status_code == 303
    assert site.journal.structure_set_of(row.id).released_by == "Anna"


def test_sign_in_and_out(site, elsewhere, caplog):
    """The way back to the page that was asked for; a line in the log for each."""
    caplog.set_level(logging.INFO)
    row = site.contoured(1, held="why")
    asked = elsewhere.get(f"/{row.name}")
    assert asked.headers["location"] == f"/sign-in?next=%2F{row.name}"
    answer = sign_in(elsewhere, "Anna", next=f"/{row.name}")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/{row.name}")
    page = elsewhere.get(f"/{row.name}")
    assert "sign out" in page.text
    assert elsewhere.get("/sign-in").headers["location"] == "/"
    out = elsewhere.post("/sign-out", data={"token": token_of(page)})
    assert (out.status_code, out.headers["location"]) == (303, "/sign-in")
    assert elsewhere.get("/").headers["location"] == "/sign-in"
    assert "Anna signed in (act) from 10.0.0.7" in caplog.text
    assert "Anna signed out from 10.0.0.7" in caplog.text


def test_what_is_done_by_whom_stands_in_journal_and_log(site, elsewhere, caplog):
    """By the account's name, also where the command takes none."""
    caplog.set_level(logging.INFO)
    row = site.contoured(1, held="why")
    sign_in(elsewhere, "Anna")
    form = {"token": token_of(elsewhere.get(f"/{row.name}")), "why": "no\nlungs"}
    assert elsewhere.post(f"/{row.name}/discard", data=form).status_code == 303
    assert site.journal.structure_set_of(row.id).discarded_by == "Anna"
    assert rf"{row.name}: board: discard, by Anna from 10.0.0.7, reason: no\nlungs" in caplog.text


def test_who_only_looks_changes_nothing(site, elsewhere):
    """No buttons, and no answer but a refusal to a form that is sent all the same."""
    row = site.contoured(1, held="why")
    sign_in(elsewhere, "Wall")
    page = elsewhere.get(f"/{row.name}")
    assert f'action="/{row.name}/release"' not in page.text
    form = {"token": token_of(page), "why": "x"}
    for action in ("release", "discard", "resend", "retry", "rerun", "anything"):
        answer = elsewhere.post(f"/{row.name}/{action}", data=form)
        assert (answer.status_code, "may look and no more" in answer.text) == (403, True)
    assert site.states(row) == ["held", "held"]


def test_an_account_that_is_removed_or_changed_is_signed_out_at_once(site, elsewhere, monkeypatch):
    """Without a restart; another account stays."""
    board_command(monkeypatch, site, "add", "Third", "--role", "look", typed="the third one")
    other = browser_of_same(elsewhere)
    sign_in(elsewhere, "Anna")
    assert sign_in(other, "Third", "the third one").status_code == 303
    assert elsewhere.get("/").status_code == 200
    board_command(monkeypatch, site, "add", "Anna", "--role", "act", typed="quite another")
    assert elsewhere.get("/").status_code == 303
    assert sign_in(elsewhere, "Anna").status_code == 403
    assert other.get("/").status_code == 200
    board_command(monkeypatch, site, "remove", "Third")
    assert other.get("/").status_code == 303


def browser_of_same(browser):
    """Another browser at the same board."""
    return browser_of(type("Same", (), {"app": browser.app}))


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        """Seconds."""
        return self.now_s


def sessions_of(site):
    """Sessions with a clock."""
    clock = Clock()
    register = Register(give_accounts(site), must_ask=True)
    return Sessions(register, clock), register.accounts(), clock


@pytest.mark.parametrize(
    ("name", "idle_s", "whole_s"), [("Anna", 3600, 12 * 3600), ("Wall", 12 * 3600, 7 * 86400)]
)
def test_a_session_ends_idle_and_at_last(site, name, idle_s, whole_s):
    """Each page puts the idle end off, nothing the last one; to look without use does not."""
    sessions, accounts, clock = sessions_of(site)
    key = sessions.begin(accounts[name]).key
    clock.now_s += idle_s - 1
    assert sessions.find(key, use=False) is not None
    clock.now_s += 2
    assert sessions.find(key, use=True) is None
    key, began_s = sessions.begin(accounts[name]).key, clock.now_s
    while clock.now_s < began_s + whole_s - idle_s / 2:
        assert sessions.find(key, use=True) is not None
        clock.now_s += idle_s / 2
    clock.now_s = began_s + whole_s + 1
    assert sessions.find(key, use=True) is None


def test_sessions_take_bounded_memory(site):
    """The oldest of an account goes first, then the oldest of all."""
    sessions, accounts, _ = sessions_of(site)
    keys = [sessions.begin(accounts["Anna"]).key for _ in range(MOST_OF_ACCOUNT + 1)]
    assert sessions.find(keys[0], use=True) is None
    assert sessions.find(keys[1], use=True) is not None
    for number in range(MOST_SESSIONS + 10):
        sessions.begin(Account(f"n{number}", "look", "x"))
    assert len(sessions._sessions) == MOST_SESSIONS


def test_wrong_passwords_make_a_person_wait(monkeypatch):
    """Longer each time, to a bound; a good one is forgotten at once, and all after an hour."""
    clock = Clock()
    counted = Tries(clock)
    waits = []
    for _ in range(20):
        clock.now_s += counted.wait_s("Anna", "10.0.0.7")
        counted.begin("Anna", "10.0.0.7")
        waits.append(counted.wait_s("Anna", "10.0.0.7"))
    assert waits[: FREE["pair"]] == [0.0, 0.0, 1.0]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_S
    clock.now_s += 3700
    counted.begin("Anna", "10.0.0.7")
    counted.succeeded("Anna", "10.0.0.7")
    assert counted.wait_s("Anna", "10.0.0.7") == 0.0


def test_one_address_tries_many_names_and_many_addresses_one_name():
    """Both wait; a person who has signed in from an address before is kept out by neither."""
    clock = Clock()
    counted = Tries(clock)
    counted.begin("Anna", "10.0.0.7")
    counted.succeeded("Anna", "10.0.0.7")
    for number in range(FREE["address"] + 5):
        counted.begin(f"name {number}", "10.0.0.7")
        counted.begin("Anna", f"10.0.1.{number}")
    assert counted.wait_s("another", "10.0.0.7") > 0.0
    assert counted.wait_s("Anna", "10.9.9.9") > 0.0
    assert counted.wait_s("Anna", "10.0.0.7") == 0.0


def test_tries_take_bounded_memory(monkeypatch):
    """However many names and addresses are tried."""
    monkeypatch.setattr(tries, "MOST_KEPT", 50)
    counted = Tries()
    for number in range(500):
        counted.begin(f"n{number}", f"10.0.{number // 250}.{number % 250}")
        counted.succeeded(f"n{number}", f"10.0.{number // 250}.{number % 250}")
    assert len(counted._mistakes) <= 50
    assert len(counted._signed_in) <= 51
    assert MOST_KEPT == 4096


def test_a_wait_is_told_in_words_and_compares_nothing(elsewhere, monkeypatch):
    """The right password does not help before it is over: a guess would be told from the rest."""
    for _ in range(FREE["pair"]):
        assert sign_in(elsewhere, "Anna", "wrong").status_code == 403
    monkeypatch.setattr(PasswordDesk, "fits", None)
    answer = sign_in(elsewhere, "Anna")
    assert (answer.status_code, "try again in 1 s" in answer.text) == (429, True)


def test_an_unknown_name_takes_as_long_as_a_wrong_password(elsewhere):
    """And gets the same answer."""
    sign_in(elsewhere, "Nobody", "to warm up")

    def took_s(name):
        began_s = time.perf_counter()
        answer = sign_in(browser_of_same(elsewhere), name, f"wrong {time.time()}")
        assert (answer.status_code, "name or password is wrong" in answer.text) == (403, True)
        return time.perf_counter() - began_s

    known = min(took_s("Anna") for _ in range(2))
    unknown = min(took_s(f"Nobody {k}") for k in range(2))
    # Each compares one argon2id, of some 0.1 s; without it an answer takes a hundredth of that.
    assert 1 / 3 < unknown / known < 3
    assert unknown > 0.01


def test_a_flood_of_sign_ins_compares_one_at_a_time(monkeypatch):
    """Eight wait, the others are told so."""
    import asyncio  # noqa: PLC0415

    running, most = [], []

    def slowly(_kept, _password):
        running.append(1)
        most.append(len(running))
        time.sleep(0.02)
        running.pop()
        return True

    monkeypatch.setattr(passwords, "_fits", slowly)

    async def flood():
        desk = PasswordDesk()
        return await asyncio.gather(
            *(desk.fits("x", "y") for _ in range(30)), return_exceptions=True
        )

    answers = asyncio.run(flood())
    assert answers.count(True) == passwords.MOST_WAITING
    assert sum(isinstance(each, TooManySignIns) for each in answers) == 22
    assert max(most) == 1


def test_failures_stand_in_the_log_as_one_line(elsewhere, caplog):
    """With name and address; a name forges no line."""
    sign_in(elsewhere, "Anna", "wrong")
    sign_in(elsewhere, "x\nboard: Anna signed in\x1b[2J", "wrong")
    lines = [each.getMessage() for each in caplog.records if "did not sign in" in each.getMessage()]
    assert "'Anna' did not sign in from 10.0.0.7" in lines[0]
    assert "\n" not in lines[1]
    assert "\x1b" not in lines[1]
    assert "wrong" not in "".join(lines).replace("password is wrong", "")


def test_a_board_for_others_without_an_account_lets_nobody_in(site):
    """It runs, and says on its page what to do on the node."""
    open_to_others(site)
    browser = browser_of(Board(load_config(site.config), site.config, PORT))
    assert browser.get("/").status_code == 303
    assert "limn board add" in browser.get("/sign-in").text
    give_accounts(site)
    assert sign_in(browser, "Anna").status_code == 303


@pytest.mark.parametrize(("name", "secure"), [(SECURE_COOKIE, True), (COOKIE, False)])
def test_flags_of_the_cookie(site, name, secure, request):
    """HttpOnly and SameSite=Strict; with TLS also Secure, and of this host alone."""
    browser = request.getfixturevalue("elsewhere" if secure else "browser")
    give_accounts(site)
    answer = sign_in(browser, "Anna")
    (cookie,) = answer.headers.get_list("set-cookie")
    parts = [each.strip().lower() for each in cookie.split(";")]
    assert cookie.startswith(f"{name}=")
    assert {"httponly", "samesite=strict", "path=/"} <= set(parts)
    assert ("secure" in parts) is secure
    assert not any(each.startswith("domain") for each in parts)


def test_the_file_is_plain_json(site):
    """Which an administrator can read."""
    accounts = json.loads(give_accounts(site).read_text())["accounts"]
    assert accounts.keys() == PASSWORDS.keys()
    assert accounts["Wall"]["role"] == "look"
