"""A node's data of the limn before this one is taken over: nothing is lost, nothing sent twice."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pydicom
import pytest

from tests.conftest import free_port
from tests.node.whole.test_operations import send
from tests.node.whole.test_release import limn
from tests.support.node.journals import as_before_states
from tests.support.node.running import StoreScp, wait_for
from tests.support.node.siege import FakeNode

pytestmark = [pytest.mark.node, pytest.mark.peer]
# Numbers of toy mice, and of their scans.
HELD, UNDELIVERED, WAITS, REFUSED = 1, 2, 3, 4


def tps(port: int) -> str:
    """The planning system in a site's config."""
    return (
        '[[destination]]\nkind = "dicom"\nname = "TPS"\nae_title = "TPS"\nhost = "127.0.0.1"\n'
        f"port = {port}\n"
    )


def by_number(node: FakeNode) -> dict[int, tuple]:
    """Scan state, delivery state and SOP Instance UID of every scan."""
    rows = node.query(
        "select scan.id, scan.state, delivery.state, sop_instance_uid from scan join "
        "structure_set on structure_set.scan = scan.id join delivery on "
        "delivery.structure_set = structure_set.id"
    )
    return {number: tuple(rest) for number, *rest in rows}


def outcomes(node: FakeNode) -> list[str]:
    """What the scan log says became of the scans."""
    return [row["outcome"] for row in node.log_rows()]


def as_it_was(node: FakeNode) -> None:
    """The journal as the limn before left it, with a scan in each of four states."""
    journal = node.data / "journal.sqlite"
    delivery = "update delivery set state = ?, status = ? where structure_set = ?"
    with closing(sqlite3.connect(journal, isolation_level=None)) as db:
        db.execute(
            "update scan set state = 'ready', record = '{}', tries = 0, started_at = null "
            "where id = ?",
            (WAITS,),
        )
        db.execute("update structure_set set path = '' where scan = ?", (WAITS,))
        db.execute("update structure_set set held = 'mirrored image' where scan = ?", (HELD,))
        db.execute(delivery, ("held", "mirrored image", HELD))
        db.execute(delivery, ("refused", "0xA900", REFUSED))
    (node.data / "scans" / f"scan-{WAITS:05d}").rename(node.folder / "gone")
    as_before_states(journal)


def test_the_journal_and_spool_of_the_limn_before_are_taken_over(tmp_path: Path) -> None:
    """One scan waits, one is held, one is undelivered, one was refused by its peer."""
    node = FakeNode(tmp_path / "node", tps(free_port()))
    node.start()
    for number in (HELD, UNDELIVERED, WAITS, REFUSED):
        assert send(node, number) == {0}
        wait_for(lambda n=number: by_number(node).get(n, ("",))[0] == "contoured", 60, node.explain)
    assert node.stop() == 0
    before = by_number(node)
    as_it_was(node)
    assert by_number(node)[REFUSED][1] == by_number(node)[HELD][1] == "held"
    written = {
        number: next((node.data / "scans").glob(f"*/RS.{before[number][2]}.dcm"))
        for number in (HELD, UNDELIVERED, REFUSED)
    }
    contents = {number: path.read_bytes() for number, path in written.items()}

    # An operator looks before the node runs: that alone brings the journal up to date.
    queue = json.loads(limn("queue", "--config", node.config, "--json").stdout)
    assert {int(entry["scan"][-5:]): entry["state"] for entry in queue["entries"]} == {
        WAITS: "waiting",
        HELD: "held",
        UNDELIVERED: "delivering",
        REFUSED: "refused by peer",
    }
    peer = StoreScp(tmp_path / "tps")
    text = node.config.read_text()
    node.config.write_text(text[: text.index("[[destination]]")] + peer.destination())
    node.start()
    wait_for(lambda: len(peer.received()) == 2, 90, node.explain)
    arrived = {str(pydicom.dcmread(path).SOPInstanceUID) for path in peer.received()}
    assert arrived == {before[number][2] for number in (WAITS, UNDELIVERED)}
    assert limn("release", "--config", node.config, f"scan-{HELD:05d}").returncode == 0
    assert limn("resend", "--config", node.config, f"scan-{REFUSED:05d}").returncode == 0
    wait_for(lambda: outcomes(node).count("delivered") == len(before), 60, node.explain)
    assert sorted(outcomes(node)) == ["delivered"] * len(before) + ["refused by peer"]
    assert node.stop() == 0
    uids = {number: uid for number, (_, _, uid) in before.items()}
    assert by_number(node) == {n: ("contoured", "delivered", uid) for n, uid in uids.items()}
    assert {number: path.read_bytes() for number, path in written.items()} == contents
    assert len(peer.received()) == len(before)
    peer.process.terminate()
