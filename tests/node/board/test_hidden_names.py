"""A board that hides animals' names: scan numbers stand in their place, everywhere."""

import csv
import io
import re
import time
from dataclasses import replace

import pytest

from limn.node.board.app import Board
from limn.node.board.hidden_names import HiddenNames, shown_sender
from limn.node.board.names_in_text import NO_NUMBER, OTHER, Names
from limn.node.config import load_config
from limn.node.store.disk import scanlog
from limn.node.store.journal.edits.rows import Change, EditedRoi, ReturnedState
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
    site.journal.enter_returned({"a.dcm": 5.0, "b.dcm": 6.0})
    edit, foreign = site.journal.returned_files()
    heart = EditedRoi(roi="Heart", change=Change.EDITED, dsc=0.9)
    site.journal.measured(edit.id, ReturnedState.MEASURED, edits={done.id: [heart]})
    why = f"{done.name}: PatientID '{NAME}', but '{OTHERS}' in the scan; never matched"
    site.journal.measured(foreign.id, ReturnedState.UNMATCHED, why)
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
    assert (row["animal"], row["reason"]) == ("scan-00001", "it was scan-00001, not scan-00004")


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
    for text in ("1", "1 of 3", "2026-01-24T01:01:00+00:00 1", "1.2.1", "a 1 b"):
        assert names.over(text) == text
    about = "PatientID '1' of animal 1 came on 2026-11-01 01:01:01, 1.5 mm"
    shown = "PatientID scan-00001 of animal scan-00001 came on 2026-11-01 01:01:01, 1.5 mm"
    assert names.over(about) == shown
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


def _answers(browser, name):
    """What the board says of a typed name, wherever one can be typed; the name itself left out."""
    queries = ("said", "animal", "scanner", "flag", "since", "slower_s", "by", "what", "id", "page")
    paths = [
        f"{path}?{query}={name}"
        for path in ("/history", "/history.csv", "/contacts", "/animal", "/scan-00001", "/")
        for query in queries
    ]
    paths += [f"/{name}", f"/scan-00001/file/{name}", f"/thumbnail/{name}", f"/scan-00001/{name}"]
    paths += [f"/sign-in?next=/{name}", f"/peers?said={name}"]
    found = {}
    for path in paths:
        answer = browser.get(path)
        text = re.sub(r'"[0-9a-f]{64}"', "", answer.text).replace(name, "X")
        found[path.replace(name, "X")] = answer.status_code, text
    token = token_of(
        page if "token" in (page := browser.get("/scan-00001")).text else browser.get("/sign-in")
    )
    for path in ("/sign-in", f"/scan-00001/{name}", "/scan-00002/resend"):
        form = {"token": token, "next": f"/{name}", "by": name, "why": name, "name": name}
        answer = browser.post(path, data=form | {"password": name})
        text = re.sub(r'"[0-9a-f]{64}"|in \d+ s', "", answer.text).replace(name, "X")
        found[f"POST {path}".replace(name, "X")] = answer.status_code, text
    return found


@pytest.mark.parametrize("person", ["", "Wall", "Anna"])
def test_a_typed_name_is_answered_like_any_other_text(site, full, person):
    """Nobody learns which names there are, least of all who has no account."""
    board = board_of(site)
    answers = []
    for name in (OTHERS, "Zorro-3"):
        browser = browser_of(board)
        if person:
            sign_in(browser, person)
        answers.append(_answers(browser, name))
    known, unknown = answers
    changed = [path for path in known if known[path] != unknown[path]]
    assert not changed
    if not person:
        browser = browser_of(board)
        assert f'value="/{OTHERS}"' in browser.get(f"/sign-in?next=/{OTHERS}").text


def test_a_folder_and_an_image_are_called_so(site):
    """Their paths have names; a filter finds what is shown, and no more."""
    folder, image = f"folder /watch/{NAME}", "image /w/M7_ct.nii.gz"
    site.contoured(1, animal="A", sender=folder, held=f"{folder}: x")
    site.contoured(2, animal="A", sender=image)
    record, other, third = rows(3)
    scanlog.append(
        site.log,
        replace(record, sender=folder, destination_status=f"of {OTHERS}", flags="animal-name:M_7"),
        replace(other, sender=image, animal=OTHERS),
        third,
    )
    browser = browser_of(board_of(site))
    sign_in(browser, "Anna")
    for path in ("/", "/history", "/peers", "/scan-00001", "/scan-00002", "/history.csv"):
        page = browser.get(path).text
        for text in (NAME, "M7_ct", "/watch", "M_7", OTHERS):
            assert text not in page, path
    assert '<span class="sender">folder</span>' in browser.get("/").text
    assert '<th scope="row">scanner</th><td>image</td>' in browser.get("/scan-00002").text
    assert '<th scope="row">folder</th>' in browser.get("/peers").text
    for sender, count in (("folder", 1), (folder, 0), ("image", 1), ("folder*", 1), ("CT1", 1)):
        page = browser.get("/history", params={"scanner": sender}).text
        assert f"<p>{count} scan" in page, sender
    assert shown_sender("CT ROOM@10.0.0.1") == "CT ROOM@10.0.0.1"
    assert shown_sender("Quagga") == OTHER


def test_a_path_in_the_watched_folder_is_hidden(site):
    """A line of the log names the file."""
    site.config.write_text(site.config.read_text() + '[watch]\nfolder = "/watch"\n')
    names = HiddenNames(load_config(site.config), hides=True)
    assert names.over("/watch/M 7_a.nii: cut; see /watch") == f"/watch/{OTHER}: cut; see /watch"


def test_the_page_of_an_animal_is_not_there(site, full):
    """Its address and its title have the name; nothing leads to it."""
    browser = browser_of(board_of(site))
    sign_in(browser, "Anna")
    for name in (NAME, "scan-00001", "nobody"):
        answer = browser.get("/animal", params={"id": name})
        assert answer.status_code == 404
        assert "there is none while names are hidden" in answer.text
    for path in ("/history", "/scan-00001", "/contacts", "/"):
        assert "/animal" not in browser.get(path).text


def test_who_looks_sees_no_link_that_is_refused(site, full):
    """Neither a picture nor a button; who acts has both."""
    board = board_of(site)
    for person, there in (("Wall", False), ("Anna", True)):
        browser = browser_of(board)
        sign_in(browser, person)
        assert ("/thumbnail/scan-00001" in browser.get("/contacts").text) == there
        assert ("try now" in browser.get("/peers").text) == there
        for path in ("/", "/history", "/contacts", "/peers", "/scan-00001"):
            for link in re.findall(r'(?:href|src)="(/[^"#]*)"', browser.get(path).text):
                assert browser.get(link.replace("&amp;", "&")).status_code == 200, (person, link)


def test_there_are_no_cohorts_while_names_are_hidden(site, full):
    """All would be one, "scan"."""
    browser = browser_of(board_of(site))
    sign_in(browser, "Wall")
    assert ">cohort<" not in browser.get("/history").text
    assert "not while names are hidden" in browser.get("/history?by=cohort").text
    assert "<title>scan-00001</title>" in browser.get("/scan-00001").text


def test_a_name_of_the_log_alone_is_known(site):
    """The journal was made anew; the row's own name is in its reason, and an older one too."""
    first, second = rows(2)
    scanlog.append(
        site.log,
        replace(first, animal="Gnu-9", reason="Gnu-9 moved"),
        replace(second, animal="Elk-1", reason="Elk-1 lies as Gnu-9 did"),
    )
    names = HiddenNames(load_config(site.config), hides=True)
    found = names.rows(scanlog.rows(site.log))
    assert [row["reason"] for row in found] == [
        "scan-00001 moved",
        "scan-00002 lies as scan-00001 did",
    ]
    fresh = names.rows([{"scan_id": "scan-00009", "animal": "Yak", "reason": "Yak moved"}])
    assert fresh[0]["reason"] == "scan-00009 moved"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "series ...1.2: PatientID 'O'Neil', but the series came before as 'Gnu-9'; whose?",
            f"series ...1.2: PatientID {OTHER}; whose?",
        ),
        ("PatientID 'O' Neil 'x', but 'Gnu-9' in the series", f"PatientID {OTHER} in the series"),
        ("PatientID 'Gnu's', but 'M7' in it", f"PatientID {OTHER}, but scan-00007 in it"),
        ("PatientID 'Gnu", f"PatientID {OTHER}"),
        (
            "series ...1.2, animal Gnu-9: SOPInstanceUID 1.2 came before",
            f"series ...1.2, animal {OTHER}: SOPInstanceUID 1.2 came before",
        ),
        ("scan-00007 animal M7 is offered: yes", "scan-00007 animal scan-00007 is offered: yes"),
        ("the animal lies askew: look", "the animal lies askew: look"),
        ("the animal's lungs can't be told", "the animal's lungs can't be told"),
        ("ROI 'Heart' can't be drawn", "ROI 'Heart' can't be drawn"),
        ("M7 and M70, M7^x, C57 1-2.", "scan-00007 and M70, scan-00007^x, scan-00012."),
    ],
)
def test_names_that_nobody_knows_go_by_their_place(text, shown):
    """In quotes, and between "animal" and a colon; a name may have quotes itself."""
    assert (
        Names.of({"M7": "scan-00007", "C57 1": "no", "C57 1-2": "scan-00012"}).out_of(text) == shown
    )


def test_a_damaged_journal_hides_and_says_so_once(site, full, caplog):
    """The sign-in is there, the table hides its reasons, no page fails."""
    board = board_of(site)
    site.journal.close()
    for each in site.data.glob("journal.sqlite*"):
        each.unlink()
    (site.data / "journal.sqlite").write_bytes(b"no journal" * 500)
    browser = browser_of(board)
    assert browser.get("/sign-in").status_code == 200
    sign_in(browser, "Anna")
    for path in ("/", "/history", "/scan-00001", "/peers"):
        answer = browser.get(path)
        assert answer.status_code == 503, path
        assert "be read; limn check says why" in answer.text
    (row,) = csv.DictReader(io.StringIO(browser.get("/history.csv").text))
    assert (row["animal"], row["reason"]) == ("scan-00001", OTHER)
    names = HiddenNames(load_config(site.config), hides=True)
    assert names.over("the animal lies askew") == OTHER
    names._known_at_s = float("-inf")
    names.over("x")
    said = [each for each in caplog.records if "names in reasons are hidden" in each.message]
    assert len(said) == 2, "once by the board, once by the other"


def test_a_page_of_the_history_never_asks_for_names_again(site, full, monkeypatch):
    """Its rows are hidden once, when they are read; the sign-in and errors ask for none."""
    board = board_of(site)
    browser = browser_of(board)
    sign_in(browser, "Wall")
    browser.get("/history")

    def asked(*_):
        raise AssertionError

    monkeypatch.setattr(HiddenNames, "_names", asked)
    for path, status in (("/history", 200), ("/contacts", 200), ("/sign-in", 303), ("/x", 404)):
        assert browser.get(path).status_code == status, path
    assert browser_of(board).get("/sign-in").status_code == 200


def test_ten_thousand_names_cost_little(monkeypatch):
    """A text is looked up word by word, however many names begin alike."""
    names = Names.of({f"C57-A-{number:05d}": f"scan-{number:05d}" for number in range(10_000)})
    asked = []
    monkeypatch.setattr(Names, "stands_for", lambda _, name: asked.append(name))
    names.out_of("the scan of C57-A-00077 lies as that of C57-A-09999 did, for 12.5 s")
    assert len(asked) == 3
