"""The page of the peers in a real Chromium, with a real Orthanc and storescp as destinations."""
# ruff: noqa: F811 - the fixture comes by an import

import os
import subprocess
import time
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

from limn.node.config import load_config
from limn.node.store.disk.contacts import DestinationContacts, SenderContacts
from tests.conftest import free_port, require_peer
from tests.node.board.test_browser import WIDTHS, chromium, page_of  # noqa: F401 - a fixture
from tests.support.node.running import Orthanc, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.peer]

SERIOUS = ("serious", "critical")


@pytest.fixture
def orthanc(tmp_path):
    """An archive that takes only calls by its own title."""
    made = Orthanc(tmp_path / "orthanc", DicomCheckCalledAet=True)
    yield made
    made.process.kill()
    made.process.wait()


@pytest.fixture
def storescp(tmp_path):
    """A planning system that refuses every association; its port."""
    port, program = free_port(), require_peer("/usr/bin/storescp")
    (tmp_path / "tps").mkdir()
    process = subprocess.Popen([program, "--refuse", "-od", str(tmp_path / "tps"), str(port)])
    yield port
    process.kill()
    process.wait()


def destination(name, title, port):
    """A table of the config."""
    return (
        f'[[destination]]\nkind = "dicom"\nname = "{name}"\nae_title = "{title}"\n'
        f'host = "127.0.0.1"\nport = {port}\n'
    )


def test_real_peers_are_tried_from_the_browser(site, orthanc, storescp, request, chromium):
    """One answers; one is called by a wrong title; one refuses without a reason."""
    tables = (
        destination("archive", "ORTHANC", orthanc.port),
        destination("archive by a wrong title", "ARCHIVE", orthanc.port),
        destination("no entry", "TPS", storescp),
    )
    site.config.write_text(site.config.read_text() + "".join(tables))
    served = request.getfixturevalue("served")
    page, errors = page_of(chromium)
    page.goto(f"{served}/peers")
    said = {}
    # storescp closes the connection right after its refusal, which may be lost with it.
    for name in ("archive", "archive by a wrong title", *["no entry"] * 4):
        if "refused" in said.get(name, ""):
            continue
        card = page.get_by_role("region", name=name, exact=True)
        card.get_by_role("button", name="try now").click()
        answer = page.get_by_role("region", name=name, exact=True).get_by_role("status")
        answer.wait_for()
        said[name] = answer.inner_text()
    assert f"ORTHANC@127.0.0.1:{orthanc.port} answers C-ECHO in" in said["archive"]
    assert (
        "called AE title not recognized: this node calls it ARCHIVE; compare the planning system's"
        in said["archive by a wrong title"]
    )
    assert "refused the association: it gives no reason; look at its own log" in said["no entry"]
    assert errors == []


def full(site):
    """A node with a destination that is down, refusals, and senders with long names."""
    config = load_config(site.config)
    site.contoured(1, sender="CT-ROOM-1@192.168.1.20")
    site.contoured(2, sender="CT-ROOM-1@192.168.1.20")
    held = site.contoured(3, sender="folder /mnt/scanner/export")
    site.journal.refused(site.journal.deliveries(held.id)[0].id, "0xC000")
    contacts = DestinationContacts(config.destinations_path)
    contacts.note("export", "", "written", time.time())
    said = (
        "TPS@10.11.12.13:11112 refused the association: called AE title not recognized: this node "
        "calls it TPS; compare the planning system's or archive's own title"
    )
    contacts.note("tps", "rejected", said, time.time() - 900)
    door = SenderContacts()
    door.came("CT-ROOM-1@192.168.1.20")
    door.refused("SKYSCAN@192.168.1.77", "called-ae", "it calls 'LIMM', this node is 'LIMN'")
    door.not_stored("CT-ROOM-1@192.168.1.20", "0xC000: series ...77.3: no PixelData (7FE0,0010)")
    door.write(config.senders_path)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", WIDTHS)
def test_the_page_fits_and_axe_finds_nothing_serious(
    site,
    served,
    chromium,
    tmp_path,
    device,
    scheme,
):
    """On a phone and across the room, light and dark; also after a trial that failed."""
    full(site)
    page, errors = page_of(chromium, WIDTHS[device], scheme)
    page.goto(f"{served}/peers")
    page.get_by_role("region", name="tps").get_by_role("button", name="try now").click()
    page.get_by_text("does not answer; start it").wait_for()
    # The words may be there before the style.
    page.wait_for_load_state("load")
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0
    folder = Path(os.environ.get("LIMN_SCREENSHOTS", tmp_path))
    page.screenshot(path=str(folder / f"peers-{device}-{scheme}.png"), full_page=True)
    found = Axe().run(page).response["violations"]
    assert [each["id"] for each in found if each["impact"] in SERIOUS] == []
    assert errors == []


def test_a_peer_that_comes_up_answers_at_the_next_try(site, served, chromium, tmp_path):
    """The operator starts storescp and presses again."""
    page, errors = page_of(chromium)
    page.goto(f"{served}/peers")
    card = page.get_by_role("region", name="tps")
    card.get_by_role("button", name="try now").click()
    page.get_by_text("does not answer; start it").wait_for()
    process = subprocess.Popen(
        [require_peer("/usr/bin/storescp"), "-od", str(tmp_path), str(site.port)]
    )
    try:
        wait_for(lambda: _listens(site.port), 10)
        card.get_by_role("button", name="try now").click()
        page.get_by_text("answers C-ECHO in").wait_for()
    finally:
        process.kill()
        process.wait()
    assert errors == []


def _listens(port):
    return (
        subprocess.run(
            [require_peer("/usr/bin/echoscu"), "127.0.0.1", str(port)],
            check=False,
            capture_output=True,
        ).returncode
        == 0
    )
