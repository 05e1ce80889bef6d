"""Attacks on the board from another computer: each gets nothing, and changes nothing."""

import time

import pytest
from starlette.routing import Mount

from limn.node.board.access import SIGN_IN, SIGN_OUT, need_of
from limn.node.board.app import Board
from limn.node.board.guard import SECURE_COOKIE, hosts_of
from limn.node.config import load_config
from limn.node.store.disk import scanlog
from tests.node.board.conftest import (
    ELSEWHERE,
    PORT,
    browser_of,
    give_accounts,
    open_to_others,
    sign_in,
    token_of,
    with_picture,
)
from tests.node.board.test_board import coming, rows
from tests.support.node.parts import encoded, structure_set

ANIMAL = "Quagga 77"
OPEN = {("GET", SIGN_IN), ("HEAD", SIGN_IN), ("POST", SIGN_IN), ("POST", SIGN_OUT)}


@pytest.fixture
def held(site):
    """A held scan with picture, forms and a row of the log; another series comes in."""
    row = site.contoured(1, held=f"PatientID '{ANIMAL}' lies on its side", animal=ANIMAL)
    folder = with_picture(site, row)
    (folder / "forms").mkdir()
    (folder / "forms" / "labels.nii.gz").write_bytes(b"x")
    (folder / f"RS.{row.id}.dcm").write_bytes(b"x")
    coming(site, ANIMAL)
    scanlog.append(site.log, *rows(2))
    return row


def routes(board):
    """Method and path of each route of the board, with a scan's name in it."""
    for route in board.routes:
        path = route.path
        for part, value in (("{scan}", "scan-00001"), ("{name}", "picture.png")):
            path = path.replace(part, value)
        if isinstance(route, Mount):
            yield "GET", f"{path}/"
            continue
        for action in ("release", "discard", "resend", "retry") if "{action}" in path else ("",):
            filled = path.replace("{action}", action)
            # What a route of another part of the board has in braces.
            while "{" in filled:
                filled = filled[: filled.index("{")] + "1" + filled[filled.index("}") + 1 :]
            for method in route.methods or {"GET"}:
                yield method, filled


def board_elsewhere(site, more=""):
    """The board for others, and its accounts."""
    open_to_others(site, more)
    give_accounts(site)
    return Board(load_config(site.config), site.config, PORT)


def test_without_an_account_there_is_nothing(site, held):
    """Every route that the board has, by every method: no name, no scan, no count of them."""
    board = board_elsewhere(site)
    browser = browser_of(board)
    token = token_of(browser.get(SIGN_IN))
    found = set(routes(board))
    assert len(found) > 12
    for method, path in found - OPEN:
        for accept in ("text/html", "*/*"):
            answer = browser.request(
                method,
                path,
                headers={"accept": accept},
                data={"token": token, "by": "Eve", "why": "x"} if method == "POST" else None,
            )
            assert answer.status_code in (303, 401), (method, path)
            for word in (ANIMAL, "Quagga", held.name, "mirrored", "CT@"):
                assert word not in answer.text.replace(path, ""), (method, path)
    assert site.states(held) == ["held", "held"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"])
def test_other_methods_get_nothing(elsewhere, method):
    """Not even once signed in."""
    sign_in(elsewhere, "Anna")
    assert elsewhere.request(method, "/").status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        *("/static/../history", "/static/%2e%2e/history", "/static/..%2f..%2fhistory", "//history"),
        *("/static/board.css/../../history", "/sign-in/", "/sign-in/../history", "/Sign-In"),
        *("/history/", "/static/", "/%00", "/static/%00", "/scan-00001/file/%2e%2e%2fjournal"),
        "/static/..\\history",
    ],
)
def test_no_way_around_the_sign_in(held, elsewhere, path):
    """A path that looks like an open one."""
    answer = elsewhere.get(path, headers={"accept": "*/*"})
    assert answer.status_code in (401, 404)
    assert "Quagga" not in answer.text


def test_what_comes_later_needs_an_account():
    """A path that nobody has thought of yet: to look for a GET, to act for a POST."""
    assert need_of("GET", "/peers") == need_of("HEAD", "/scan-00001/slices/3") == "look"
    assert need_of("POST", "/peers/echo") == need_of("DELETE", "/x") == "act"
    assert need_of("GET", "/scan-00001/file/a\n/b") == "identity"
    assert need_of("GET", "/static/a/b") == "look"


@pytest.mark.parametrize("headers", [{}, {"origin": f"https://{ELSEWHERE}:{PORT}"}])
def test_a_form_of_the_board_is_taken(site, held, elsewhere, headers):
    """So that what follows is refused for its own reason."""
    sign_in(elsewhere, "Anna")
    form = {"token": token_of(elsewhere.get(f"/{held.name}")), "why": "x"}
    answer = elsewhere.post(f"/{held.name}/release", data=form, headers=headers)
    assert answer.status_code == 303
    assert site.states(held) == ["waiting", "waiting"]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": f"http://{ELSEWHERE}:{PORT}"},
        {"origin": f"https://{ELSEWHERE}:{PORT}.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_form_of_another_site_changes_nothing(site, held, elsewhere, headers):
    """Even with the right token (CSRF)."""
    sign_in(elsewhere, "Anna")
    form = {"token": token_of(elsewhere.get(f"/{held.name}")), "why": "x"}
    answer = elsewhere.post(f"/{held.name}/release", data=form, headers=headers)
    assert answer.status_code == 403
    assert site.states(held) == ["held", "held"]


def test_a_form_without_this_sessions_token_changes_nothing(site, held):
    """None, another person's, that of before the sign-in, one in the query (CSRF)."""
    board = board_elsewhere(site)
    eve, anna = browser_of(board, "10.0.0.66"), browser_of(board)
    before = token_of(anna.get(SIGN_IN))
    sign_in(eve, "Wall")
    sign_in(anna, "Anna")
    path = f"/{held.name}/release"
    for token in ("", before, token_of(eve.get("/")), "0" * 64, "é"):
        assert anna.post(path, data={"token": token, "why": "x"}).status_code == 403
    good = token_of(anna.get("/"))
    assert anna.post(f"{path}?token={good}", data={"why": "x"}).status_code == 403
    for content_type in ("text/plain", "multipart/form-data; boundary=x", "application/json", ""):
        answer = anna.post(
            path, content=f"token={good}&why=x", headers={"content-type": content_type}
        )
        assert answer.status_code == 415
    assert anna.get(path).status_code == 405
    assert site.states(held) == ["held", "held"]


def test_a_sign_in_of_another_site_is_not_taken(site):
    """A person would work under the attacker's name (login CSRF)."""
    browser = browser_of(board_elsewhere(site))
    form = {"name": "Anna", "password": "an act of kindness"}
    assert browser.post(SIGN_IN, data=form).status_code == 403
    assert browser.post(SIGN_IN, data=form | {"token": "0" * 64}).status_code == 403
    assert browser.get("/").status_code == 303


def test_a_session_that_an_attacker_fixed_is_worth_nothing(site):
    """The key of before the sign-in, whoever chose it, is nobody's after it."""
    board = board_elsewhere(site)
    anna, eve = browser_of(board), browser_of(board, "10.0.0.66")
    fixed = "A" * 43
    for browser in (anna, eve):
        browser.cookies.set(SECURE_COOKIE, fixed, domain=ELSEWHERE, path="/")
    answer = sign_in(anna, "Anna")
    assert answer.status_code == 303
    assert fixed not in answer.headers["set-cookie"]
    assert eve.get("/").status_code == 303
    assert anna.get("/").status_code == 200


def test_a_session_that_was_signed_out_is_over(site):
    """Its cookie, which somebody kept, gets nothing."""
    board = board_elsewhere(site)
    anna, eve = browser_of(board), browser_of(board, "10.0.0.66")
    sign_in(anna, "Anna")
    (kept,) = [each.value for each in anna.cookies.jar]
    eve.cookies.set(SECURE_COOKIE, kept, domain=ELSEWHERE, path="/")
    assert eve.get("/").status_code == 200
    anna.post(SIGN_OUT, data={"token": token_of(anna.get("/"))})
    assert eve.get("/").status_code == 303


@pytest.mark.parametrize(
    "target",
    [
        *("//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"),
        *("/%2fevil.example", "evil.example", "/x\r\nSet-Cookie: a=b", "/sign-out", "/sign-in"),
    ],
)
def test_the_sign_in_leads_to_no_other_site(elsewhere, target):
    """Whatever the link says that brought the person here (open redirect)."""
    assert 'name="next" value="/"' in elsewhere.get(SIGN_IN, params={"next": target}).text
    assert sign_in(elsewhere, "Anna", next=target).headers["location"] == "/"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8114", "board.example", "10.0.0.1:8114", "", "board.example:1"],
)
def test_another_name_gets_nothing(elsewhere, host):
    """A page of another site whose name was led here (DNS rebinding), also when signed in."""
    sign_in(elsewhere, "Anna")
    answer = elsewhere.get("/", headers={"host": host})
    assert (answer.status_code, answer.text) == (421, "this board does not answer to that name\n")


def test_the_names_of_a_board(site):
    """Those of the config, with its port or their own; a browser leaves out the usual one."""
    open_to_others(site)
    board = load_config(site.config).board
    more = board.model_copy(
        update={"names": ("a.example:443", "B.example", "[2001:db8::1]"), "host": "10.0.0.1"}
    )
    assert hosts_of(more) >= {
        *("a.example:443", "a.example", "b.example:8114", "[2001:db8::1]:8114"),
        *("10.0.0.1:8114", "localhost:8114"),
    }
    assert "b.example" not in hosts_of(more)


@pytest.mark.parametrize(
    "name",
    [
        *("..%2f..%2fjournal.sqlite", "%2e%2e/%2e%2e/journal.sqlite", "%2fetc%2fpasswd"),
        *("/etc/passwd", "picture.png%00.dcm", "%00", "RS.link.dcm", "forms/link.nii.gz", "link"),
        *("forms%2flabels.nii.gz", "...", "picture.pn", "PICTURE.PNG", "board-accounts.json"),
        *("..%5c..%5cjournal.sqlite", "%252e%252e%252fjournal.sqlite", "link.nii.gz", "RS.*.dcm"),
    ],
)
def test_no_path_leads_out_of_a_scans_folder(site, held, elsewhere, name):
    """Dots, encoded slashes, absolute paths, NUL, links that lie among the results."""
    folder = site.data / "scans" / held.name
    secret = load_config(site.config).board_accounts_path
    (folder / "RS.link.dcm").symlink_to(secret)
    (folder / "forms" / "link.nii.gz").symlink_to(secret)
    (folder / "forms" / "link").symlink_to(site.data)
    sign_in(elsewhere, "Anna")
    assert elsewhere.get(f"/{held.name}/file/labels.nii.gz").content == b"x"
    answer = elsewhere.get(f"/{held.name}/file/{name}")
    assert answer.status_code in (404, 405), answer.text
    assert "argon2" not in answer.text


def test_a_folder_of_results_that_is_a_link_gives_its_files(site, held, elsewhere):
    """A site that moved its results to another disk."""
    folder = site.data / "scans"
    folder.rename(site.folder / "elsewhere")
    folder.symlink_to(site.folder / "elsewhere")
    sign_in(elsewhere, "Anna")
    assert elsewhere.get(f"/{held.name}/file/labels.nii.gz").content == b"x"


EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>'\"&{{7919*7907}}"


def test_text_stays_text(site):
    """PatientID, sender, reason, ROI names, flags, a destination's answer, files, the query."""
    coming(site, EVIL)
    record = {"flags": EVIL, "light": "red", "bundle": EVIL, "grid": EVIL, "device": EVIL}
    roi = {"roi": EVIL, "light": "red", "volume_mm3": 1.0, "predicted_dsc": EVIL}
    row = site.scan(2, animal=EVIL, sender=EVIL)
    uid = site.journal.structure_set_of(row.id).sop_instance_uid
    path = site.data / f"RS.{uid}.dcm"
    path.write_bytes(encoded(structure_set(uid)))
    record |= {"rois": [roi], "contoured_at": time.time()}
    site.journal.contoured(row.id, str(path), record, EVIL)
    folder = with_picture(site, row)
    (folder / "forms").mkdir()
    (folder / "forms" / "<img src=x onerror=alert(3)>.stl").write_bytes(b"x")
    browser = browser_of(board_elsewhere(site, 'animals = "shown"'))
    sign_in(browser, "Anna")
    for page in (
        *("/", f"/{row.name}", f"/{row.name}?said={EVIL}", f"/history?animal={EVIL}"),
        *(
            f"/history?since={EVIL}",
            f"/{EVIL}",
            f"/{row.name}/file/{EVIL}",
            f"/sign-in?next={EVIL}",
        ),
    ):
        text = browser.get(page, follow_redirects=True).text
        assert "<script>alert" not in text, page
        assert "<img src=x" not in text, page
        assert "62615533" not in text, page
    assert "&lt;script&gt;alert" in browser.get(f"/{row.name}").text


def test_a_name_that_is_typed_stays_text(elsewhere):
    """At the sign-in, in whose page it does not come back."""
    answer = sign_in(elsewhere, EVIL, EVIL)
    assert answer.status_code == 403
    assert "alert(" not in answer.text


def test_a_link_of_others_does_not_say_that_something_was_done(site, held, elsewhere):
    """Only the answer to this browser's own form does, and for its own scan."""
    sign_in(elsewhere, "Anna")
    said = "look: done, by Anna"
    page = elsewhere.get(f"/{held.name}?said={said}&seal={'0' * 64}")
    assert (page.status_code, said in page.text) == (200, False)
    form = {"token": token_of(page)}
    answer = elsewhere.post(f"/{held.name}/look", data=form)
    location = answer.headers["location"]
    assert said in elsewhere.get(location).text
    other = site.contoured(9)
    assert said not in elsewhere.get(location.replace(held.name, other.name)).text
    assert "discard: done" not in elsewhere.get(location.replace("look", "discard")).text


def test_many_ranges_of_a_file_cost_nothing(held, elsewhere):
    """A header of ten thousand overlapping parts; the file comes once, or is refused."""
    sign_in(elsewhere, "Anna")
    ranges = "bytes=" + ",".join(f"{k}-" for k in range(10_000))
    began_s = time.perf_counter()
    answer = elsewhere.get(f"/{held.name}/file/picture.png", headers={"range": ranges})
    assert time.perf_counter() - began_s < 2.0
    assert answer.status_code in (200, 206, 400, 416)
    assert len(answer.content) < 10_000


def test_a_form_of_no_length_or_too_much_is_not_read(elsewhere):
    """Before a byte of it is kept."""
    kind = {"content-type": "application/x-www-form-urlencoded"}
    for content in (b"a" * 4097, iter([b"a" * 4097]), iter([b"token=x"])):
        assert elsewhere.post(SIGN_IN, content=content, headers=kind).status_code == 413
