"""A board that hides animals' names: scan numbers stand in their place, everywhere."""

import csv
import io
import time

import pytest

from limn.node.board.app import Board
from limn.node.board.hidden_names import NO_NUMBER, OTHER, HiddenNames
from limn.node.config import load_config
from limn.node.store.disk import scanlog
from tests.node.board.conftest import (
    PORT,
    browser_of,
    give_accounts,
    open_to_others,
    sign_in,
    token_of,
    with_picture,
)
from tests.node.board.test_attacks import routes
from tests.node.board.test_board import coming, rows

NAME, OTHERS, COMES = "Quagga 77", "Zorse-3", "Okapi^1"
NAMES = (NAME, OTHERS, COMES, "Quagga", "Zorse", "Okapi")


@pytest.fixture
def full(site):
    """A node with names in every place that has room for one."""
    held = site.contoured(1, animal=NAME, held=f"{NAME} or {OTHERS}? it lies as {COMES} did")
    folder = with_picture(site, held)
    (folder / "RS.1.2.dcm").write_bytes(b"x")
    failed = site.scan(2, animal=OTHERS)
    site.journal.end(failed.id, "refused", f"PatientID 'Mule 9', but '{NAME}' in a slice", {})
    running = site.scan(3, animal=NAME)
    site.journal.started(running.id)
    done = site.contoured(4, animal=OTHERS)
    for delivery in site.journal.deliveries(done.id):
        site.journal.delivered(delivery.id, "0x0000", time.time())
    coming(site, COMES)
    record, *_ = rows(1)
    changed = {"animal": NAME, "reason": f"it was {NAME}, not {OTHERS}"}
    scanlog.append(site.log, type(record)(**{**_values(record), **changed}))
    return held


def _values(record):
    return {name: getattr(record, name) for name in record.columns()}


def board_of(site, more=""):
    """The board for others."""
    open_to_others(site, more)
    give_accounts(site)
    return Board(load_config(site.config), site.config, PORT)


@pytest.mark.parametrize("person", ["Wall", "Anna"])
def test_no_page_and_no_table_has_a_name(site, full, person):
    """Every route, also one that is added later; each scan keeps its own number."""
    board = board_of(site)
    browser = browser_of(board)
    sign_in(browser, person)
    for method, path in routes(board):
        if method != "GET" or path == "/events":
            continue
        for number in ("00001", "00002", "00003", "00004"):
            answer = browser.get(path.replace("00001", number))
            for name in NAMES:
                assert name not in answer.text, (path, name)
    page = browser.get("/scan-00001").text
    assert "<h1>scan-00001</h1>" in page
    assert f'<th scope="row">PatientID</th><td>{OTHER}</td>' in page
    assert "scan-00003 or scan-00004?" not in page
    assert f"scan-00001 or scan-00004? it lies as {NO_NUMBER} did" in page
    assert f"PatientID {OTHER}, but scan-00003 in a slice" in browser.get("/scan-00002").text


def test_the_lines_of_the_live_page_have_numbers(site, full):
    """What a stream sends, and the page that it changes."""
    board = board_of(site)
    fragment = board._made().text
    assert not [name for name in NAMES if name in fragment]
    for text in ("scan-00001</a>", "scan-00003</a>", "scan-00004</a>", NO_NUMBER):
        assert text in fragment


def test_a_name_can_not_be_guessed_by_the_choice(site, full):
    """The history is chosen by number: a name finds as much as any other text."""
    browser = browser_of(board_of(site))
    sign_in(browser, "Wall")
    assert "<p>0 scans" in browser.get("/history", params={"animal": NAME}).text
    assert "<p>1 scan" in browser.get("/history", params={"animal": "scan-00001"}).text
    (row,) = csv.DictReader(io.StringIO(browser.get("/history.csv").text))
    assert (row["animal"], row["reason"]) == ("scan-00001", "it was scan-00003, not scan-00004")


def test_files_with_a_name_are_for_those_who_act(site, full):
    """The picture too: its header names the animal."""
    board = board_of(site)
    wall, anna = browser_of(board), browser_of(board)
    sign_in(wall, "Wall")
    sign_in(anna, "Anna")
    for name in ("picture.png", "RS.1.2.dcm"):
        assert name not in wall.get("/scan-00001").text
        assert wall.get(f"/scan-00001/file/{name}").status_code == 403
        assert name in anna.get("/scan-00001").text
        assert anna.get(f"/scan-00001/file/{name}").status_code == 200


def test_what_is_refused_names_nobody(site, full):
    """Sentences of the commands have names."""
    browser = browser_of(board_of(site))
    sign_in(browser, "Anna")
    form = {"token": token_of(browser.get("/scan-00002")), "why": "x"}
    answer = browser.post("/scan-00002/resend", data=form)
    assert answer.status_code == 409
    assert "there is nothing to send" in answer.text
    assert not [name for name in NAMES if name in answer.text]


def test_a_site_may_show_names_to_others_and_hide_them_here(site, full):
    """`animals` decides; left out, this computer sees them and others do not."""
    here = load_config(site.config)
    assert not HiddenNames(here, hides=False).hides
    browser = browser_of(board_of(site, 'animals = "shown"'))
    sign_in(browser, "Wall")
    assert NAME in browser.get("/").text
    assert browser.get("/scan-00001/file/picture.png").status_code == 200


def test_short_names_stay_out_of_numbers_and_words(site):
    """An animal called 1, or M: what is measured stays readable."""
    site.contoured(1, animal="1", held="x")
    site.contoured(2, animal="M", held="x")
    names = HiddenNames(load_config(site.config), hides=True)
    assert names.over("1.5 mm, 21 slices of animal 1, Mean of M") == (
        "1.5 mm, 21 slices of animal scan-00001, Mean of scan-00002"
    )
    assert names.over({"animal": "1", "scan": "scan-00007", "n": 1}) == {
        "animal": "scan-00007",
        "scan": "scan-00007",
        "n": 1,
    }


def test_the_pages_of_an_animal_and_small_pictures_are_for_those_who_act(site, full):
    """An animal's page is asked for by its name, and a small picture has it in its header."""
    board = board_of(site)
    wall, anna = browser_of(board), browser_of(board)
    sign_in(wall, "Wall")
    sign_in(anna, "Anna")
    for path in (f"/animal?id={NAME}", "/animal?id=scan-00001", "/thumbnail/scan-00001"):
        assert wall.get(path).status_code == 403, path
        assert anna.get(path).status_code in (200, 404), path
        assert not [name for name in NAMES if name in wall.get(path).text]
    assert anna.get(f"/animal?id={NAME}").status_code == 404
