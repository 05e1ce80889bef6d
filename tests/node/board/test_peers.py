"""The page of the peers: what it shows of destinations and senders, and what a trial answers."""

import html
import re
import threading
import time

import pytest
from pynetdicom.sop_class import Verification

from limn.node.board import peers_page as peers_page_module
from limn.node.config import load_config
from limn.node.store.disk.contacts import DestinationContacts, SenderContacts
from tests.node.board.conftest import sign_in
from tests.node.board.test_board import token_of
from tests.support.node.parts import Archive, peer


def text_of(page):
    """A page's words on one line, without its tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page.text)).split())


def attempt(browser, number):
    """Press the button of a destination; the page that follows."""
    token = token_of(browser.get("/peers"))
    answer = browser.post("/peers/try", data={"token": token, "destination": str(number)})
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"] == f"/peers#destination-{number}"
    return text_of(browser.get("/peers"))


def test_a_new_node_shows_its_destinations_and_its_own_address(browser):
    """Before anything was sent or came."""
    text = text_of(browser.get("/peers"))
    assert "this node is LIMN@127.0.0.1:11112" in text
    assert "its AE title TPS limn calls itself LIMN TLS no last took something never" in text
    assert text.count("nothing was sent to it yet") == 2
    assert "Nobody has sent anything yet." in text


def test_a_destination_that_is_down_says_what_it_said_and_what_waits(site, browser):
    """In words, with the queue to it; another one has taken its file."""
    row = site.contoured(1)
    site.contoured(2)
    (_, export) = site.journal.deliveries(row.id)
    site.journal.delivered(export.id, "written", time.time())
    contacts = DestinationContacts(load_config(site.config).destinations_path)
    said = "TPS@h:1 refused the association: called AE title not recognized"
    contacts.note("tps", "rejected", said, time.time() - 60)
    text = text_of(browser.get("/peers"))
    tps, _, export_text = text.partition(" export ")
    assert "takes nothing since" in tps
    assert "2 structure sets wait for it, the oldest for 5 s" in tps
    assert f"last said {said}" in tps
    assert "takes what is sent; 1 structure set waits for it" in export_text


def test_a_refused_structure_set_is_told_apart_from_one_that_waits(site, browser):
    """A person must send it again."""
    row = site.contoured(1)
    site.journal.refused(site.journal.deliveries(row.id)[0].id, "0xC000")
    assert "1 structure set refused by it: limn queue has the command" in text_of(
        browser.get("/peers")
    )


def test_senders_are_shown_with_their_series_and_refusals(site, browser):
    """From the journal and from the receiver's note, the latest contact first."""
    site.scan(1, sender="CT1@10.0.0.1")
    site.scan(2, sender="CT1@10.0.0.1")
    door = SenderContacts()
    door.came("CT1@10.0.0.1")
    door.not_stored("CT1@10.0.0.1", "0xC000: no PixelData")
    door.refused("CT2@10.0.0.2", "called-ae", "it calls 'LIMM', this node is 'LIMN'")
    door.write(load_config(site.config).senders_path)
    text = text_of(browser.get("/peers")).partition("Who sends")[2]
    assert re.search(
        r"CT2@10\.0\.0\.2 \d\d:\d\d:\d\d 0 refused once, last \S+ it calls 'LIMM', this node is",
        text,
    )
    assert re.search(r"CT1@10\.0\.0\.1 \S+ 2 1 instance not taken, last \S+ 0xC000: no Pix", text)


def test_what_senders_wrote_stays_text(site, browser):
    """An AE title and a reason that are HTML."""
    evil = "<script>alert(1)</script>"
    site.scan(1, sender=evil)
    door = SenderContacts()
    door.refused(evil + "x", "called-ae", evil)
    door.write(load_config(site.config).senders_path)
    assert "<script>alert" not in browser.get("/peers").text


def test_a_peer_that_answers(site, browser):
    """C-ECHO, and a folder that is written to; nothing else is left there."""
    with peer(Archive(), classes=(Verification,), port=site.port):
        assert f"TPS@127.0.0.1:{site.port} answers C-ECHO in 0." in attempt(browser, 0)
    assert "out can be written" in attempt(browser, 1)
    assert list((site.folder / "out").iterdir()) == []


def test_a_peer_that_calls_itself_otherwise(site, browser):
    """Its refusal in words, with what to compare."""
    with peer(Archive(), ae_title="OTHER", only_this_title=True, port=site.port):
        text = attempt(browser, 0)
    assert "called AE title not recognized: this node calls it TPS; compare the planning" in text


def test_a_peer_that_is_off_and_a_folder_that_is_a_file(site, browser):
    """Each says what to do next."""
    assert "does not answer; start it, or compare host, port and AE titles" in attempt(browser, 0)
    (site.folder / "out").write_text("a file in its place")
    assert "it is a file, a folder is expected; give a folder that you may write" in attempt(
        browser, 1
    )


def test_a_trial_needs_the_page_s_own_form(browser):
    """Another site's page tries no peer; an unknown destination is none."""
    assert browser.post("/peers/try", data={"destination": "0"}).status_code == 403
    token = token_of(browser.get("/peers"))
    for number in ("2", "-1", "", "x", "99999999999"):
        answer = browser.post("/peers/try", data={"token": token, "destination": number})
        assert answer.status_code == 404, number


@pytest.mark.parametrize("error", [RuntimeError("of limn itself")])
def test_a_fault_of_limn_itself_is_an_answer_too(browser, monkeypatch, error):
    """The button never stays without an answer."""

    def fail(*_):
        raise error

    monkeypatch.setattr(peers_page_module, "try_destination", fail)
    assert "limn failed to try it (RuntimeError); see limn.log" in attempt(browser, 0)


def test_the_log_says_who_tried(elsewhere, caplog):
    """By account and address."""
    caplog.set_level("INFO", "limn.node.board.peers_page")
    sign_in(elsewhere, "Anna")
    token = token_of(elsewhere.get("/peers"))
    elsewhere.post("/peers/try", data={"token": token, "destination": "1"})
    assert "board: " in caplog.messages[-1]
    assert " was tried by Anna from 10.0.0.7: " in caplog.messages[-1]


def test_the_log_says_that_somebody_here_tried(browser, caplog):
    """Where nobody has an account."""
    caplog.set_level("INFO", "limn.node.board.peers_page")
    attempt(browser, 1)
    assert " was tried by somebody at this computer from " in caplog.messages[-1]


def test_one_trial_of_a_destination_at_a_time(browser, monkeypatch):
    """Who presses twice waits for the first; a peer that hangs holds up no page."""
    going, tries = threading.Event(), []

    def hang(*_):
        tries.append(1)
        going.wait(10)
        return "answers"

    monkeypatch.setattr(peers_page_module, "try_destination", hang)
    monkeypatch.setattr(peers_page_module, "ANSWER_S", 0.1)
    for _ in range(3):
        assert "has not answered yet: load this page again" in attempt(browser, 0)
    going.set()
    until_s = time.monotonic() + 5
    while "answers" not in text_of(browser.get("/peers")) and time.monotonic() < until_s:
        time.sleep(0.02)
    assert "has not answered yet" not in text_of(browser.get("/peers"))
    assert len(tries) == 1
