"""TLS with certificates on both sides, towards dcmtk and from it."""

import os
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from pydicom.uid import ImplicitVRLittleEndian

from limn.domain.errors import ConfigWrong, PeerUnreachable
from limn.node.config import Config, DicomDestination, PeerTls, Tls
from limn.node.deliver.destinations import Outcome, deliver
from limn.node.dimse.client import echo, peer_of
from limn.node.dimse.tls import acceptor_context, check_keys
from tests.conftest import free_port, require_peer
from tests.node.receive.test_storage_scp import Listening
from tests.support.node.certificates import Authority, Papers
from tests.support.node.parts import COUNT, Door, slices, stop, structure_set, until, write_slices

QUICK = os.environ | {"TCP_NODELAY": "1"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site's CA for DICOM peers."""
    return Authority(tmp_path_factory.mktemp("site"), "dicom")


@pytest.fixture(scope="module")
def node_papers(site):
    """The node's own certificate."""
    return site.issue("limn")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A client with a certificate of another CA."""
    return Authority(tmp_path_factory.mktemp("other"), "other").issue("stranger")


@pytest.fixture
def receiver(tmp_path, node_papers):
    """A receiver that takes TLS only."""
    listening = Listening(Door(tmp_path, hold_s=0.4), tls=node_papers.values(), artim_s=5)
    yield listening
    stop(listening.server)


def scanner(port: int, papers: Papers, ca: Path, *files: Path) -> subprocess.CompletedProcess[str]:
    """Dcmtk's storescu with a client certificate."""
    storescu = require_peer("/usr/bin/storescu")
    tls = ["+tls", str(papers.key), str(papers.certificate), "+cf", str(ca)]
    command = [storescu, *tls, "-aec", "LIMN", "127.0.0.1", str(port), *map(str, files)]
    return subprocess.run(command, env=QUICK, check=False, capture_output=True, text=True)


@pytest.mark.peer
def test_a_series_over_tls(receiver, site, tmp_path):
    """Storescu with a certificate of the site's CA: the series is complete."""
    paths = write_slices(tmp_path / "sent", slices())
    done = scanner(receiver.port, site.issue("scanner"), site.path, *paths)
    assert done.returncode == 0, done.stderr
    (row,) = receiver.door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)


@pytest.mark.peer
def test_a_client_without_the_site_s_certificate_is_refused(
    receiver, site, stranger, tmp_path, caplog
):
    """Another CA's certificate, none, no TLS: nothing is stored; the next client gets in."""
    paths = write_slices(tmp_path / "sent", slices())
    assert scanner(receiver.port, stranger, site.path, paths[0]).returncode != 0
    storescu = require_peer("/usr/bin/storescu")
    where = ["-aec", "LIMN", "127.0.0.1", str(receiver.port), str(paths[0])]
    for command in (
        [storescu, "+tla", "+cf", str(site.path), *where],
        [storescu, "-ta", "2", *where],
    ):
        assert subprocess.run(command, env=QUICK, check=False).returncode != 0
    assert receiver.door.files() == []
    lines = [r.getMessage() for r in caplog.records if "refused: TLS" in r.getMessage()]
    assert len(lines) == 3, lines
    assert all(line.startswith("connection from 127.0.0.1") for line in lines)
    assert scanner(receiver.port, site.issue("scanner"), site.path, *paths).returncode == 0
    # Refused connections leave nothing behind; port scans over years would fill the memory.
    until(lambda: receiver.server._open_connections() == ([], []))


@pytest.mark.peer
def test_a_stalled_handshake_delays_no_other_client(receiver, site, tmp_path):
    """Five connections stall before or in the handshake; a series comes in meanwhile."""
    silent = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(5)]
    silent[0].sendall(b"\x16\x03\x01")
    paths = write_slices(tmp_path / "sent", slices())
    done = scanner(receiver.port, site.issue("scanner"), site.path, *paths)
    assert done.returncode == 0
    assert len(receiver.door.files()) == COUNT
    for each in silent:
        each.settimeout(20)
        assert each.recv(1) == b""
        each.close()


def test_old_tls_is_refused(receiver, site):
    """Nothing below TLS 1.2."""
    papers = site.issue("old")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(site.path)
    context.load_cert_chain(papers.certificate, papers.key)
    assert acceptor_context(Tls.model_validate(papers.values())).minimum_version == (
        ssl.TLSVersion.TLSv1_2
    )
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", receiver.port)) as raw,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(raw, server_hostname="127.0.0.1")


class Archive:
    """dcmtk's storescp with TLS, in a folder."""

    def __init__(self, folder: Path, papers: Papers, ca: Path) -> None:
        folder.mkdir()
        self.folder, self.port = folder, free_port()
        storescp = require_peer("/usr/bin/storescp")
        tls = ["+tls", str(papers.key), str(papers.certificate), "+cf", str(ca)]
        command = [storescp, *tls, "-aet", "TPS", "-od", str(folder), str(self.port)]
        self.process = subprocess.Popen(command, env=QUICK)
        until(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def destination(self, papers: Papers, **changes: object) -> DicomDestination:
        """The archive as a destination of the node."""
        tls = papers.values() | changes
        return DicomDestination.model_validate(
            {
                "kind": "dicom",
                "name": "tps",
                "ae_title": "TPS",
                "host": "127.0.0.1",
                "port": self.port,
                "tls": tls,
            }
        )


@pytest.fixture
def archive(tmp_path, site):
    """A planning system that takes TLS only."""
    made = Archive(tmp_path / "tps", site.issue("tps"), site.path)
    yield made
    made.process.kill()
    made.process.wait()


def written(folder: Path) -> Path:
    """A structure set on disk."""
    path = folder / "RS.dcm"
    ds = structure_set()
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.peer
def test_delivery_over_tls(archive, node_papers, tmp_path):
    """To a peer whose certificate names its address: accepted."""
    answer = deliver(archive.destination(node_papers), written(tmp_path), "LIMN")
    assert (answer.outcome, answer.status) == (Outcome.DELIVERED, "0x0000")
    assert len(list(archive.folder.iterdir())) == 1
    echo(peer_of(archive.destination(node_papers), "LIMN"))


@pytest.mark.peer
def test_delivery_to_another_s_name_is_refused(archive, node_papers, tmp_path):
    """The CA is right, the host is not: not delivered, tried again, and the status says why."""
    wrong = archive.destination(node_papers, server_name="tps.example")
    answer = deliver(wrong, written(tmp_path), "LIMN")
    assert answer.outcome is Outcome.RETRY_LATER
    assert "TLS failed" in answer.status
    assert "must name tps.example" in answer.status
    assert list(archive.folder.iterdir()) == []


@pytest.mark.peer
def test_delivery_with_a_stranger_s_certificate_is_refused(
    archive, stranger, site, node_papers, tmp_path
):
    """One side does not trust the CA of the other: nothing is delivered."""
    for destination in (
        archive.destination(stranger, ca=str(site.path)),
        archive.destination(node_papers, ca=str(stranger.ca)),
    ):
        answer = deliver(destination, written(tmp_path), "LIMN")
        assert answer.outcome is Outcome.RETRY_LATER
        assert "TLS failed" in answer.status
    assert list(archive.folder.iterdir()) == []
    with pytest.raises(PeerUnreachable, match="TLS failed"):
        echo(peer_of(archive.destination(node_papers, ca=str(stranger.ca)), "LIMN"))


def test_a_key_that_others_can_read_is_refused(site):
    """The message names the file, its mode and the command."""
    if os.name != "posix":
        pytest.skip("file modes are POSIX")
    papers = site.issue("careless")
    papers.key.chmod(0o644)
    with pytest.raises(ConfigWrong, match=r"careless\.key can be read by others \(mode 0644\): ch"):
        acceptor_context(Tls.model_validate(papers.values()))


def test_the_keys_for_commitment_reports_are_tried_too(site, tmp_path):
    """Before the node starts, not when the first report can't be sent."""
    papers = site.issue("reports")
    tls = {key: str(path) for key, path in papers.values().items()}
    peer = {"ae_title": "CT1", "host": "127.0.0.1", "port": 104, "tls": tls}
    config = Config.model_validate(
        {
            "data_dir": tmp_path,
            "model": {"bundle": tmp_path},
            "receive": {"commitment": [peer]},
            "destination": [{"kind": "folder", "name": "out", "folder": tmp_path}],
        }
    )
    check_keys(config)
    papers.key.chmod(0o644)
    with pytest.raises(ConfigWrong, match="can be read by others"):
        check_keys(config)


@pytest.mark.parametrize("missing", ["certificate", "key", "ca"])
def test_a_missing_file_is_named(site, missing):
    """Each of the three."""
    papers = site.issue("partial").values() | {missing: "/nowhere.pem"}
    with pytest.raises(ConfigWrong, match=r"/nowhere\.pem"):
        acceptor_context(Tls.model_validate(papers))


def test_a_server_name_defaults_to_the_host(site):
    """What the certificate must name."""
    assert PeerTls.model_validate(site.issue("peer").values()).server_name is None


def test_pynetdicom_over_tls(receiver, site):
    """C-ECHO from limn's client to limn's server."""
    papers = site.issue("own")
    destination = DicomDestination.model_validate(
        {
            "kind": "dicom",
            "name": "limn",
            "ae_title": "LIMN",
            "host": "127.0.0.1",
            "port": receiver.port,
            "tls": papers.values(),
        }
    )
    echo(peer_of(destination, "OTHER"))
