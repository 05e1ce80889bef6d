"""Two authorities: a scanner's certificate gives no access to the engine."""

import contextlib
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from distributed import Client, LocalCluster
from distributed.security import Security

from limn.cli import exits, main
from limn.domain.errors import ConfigWrong
from limn.node.config import PeerTls, Tls, load_config
from limn.node.dimse.tls import acceptor_context, requestor_context
from limn.node.host import engine_tls
from limn.node.host.certs import CA, CA_KEY, CERT, DICOM, ENGINE, KEY, TLS_FILES, Host, make, read
from limn.node.host.engine_tls import check_given
from tests.conftest import free_port
from tests.support.node.running import wait_for

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of two hosts and a scanner."""
    out = tmp_path_factory.mktemp("certs")
    hosts = [Host.parse("gpu-1,10.0.0.7"), Host.parse("ct")]
    make(out, hosts, [Host.parse("scanner,10.0.0.9")], NOW)
    return out


def test_every_host_gets_one_of_each_kind_and_a_peer_only_dicom(made):
    """A scanner gets no certificate that could submit to the engine."""
    found = {str(path.parent.relative_to(made)) for path in made.glob(f"*/*/{KEY}")}
    assert found == {"engine/gpu-1", "engine/ct", "dicom/gpu-1", "dicom/ct", "dicom/scanner"}
    for folder in found:
        assert {path.name for path in (made / folder).iterdir()} == set(TLS_FILES)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_keys_are_their_owners_alone(made):
    """No key is readable by group or others."""
    keys = [*made.rglob(KEY), *made.rglob(CA_KEY)]
    assert len(keys) == 7
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}


@pytest.mark.parametrize("year", [1970, 2026, 2038, 2106])
def test_a_node_s_own_certificate_is_valid_whatever_the_clock_says(tmp_path, year):
    """The clock may be ahead at the start and set back an hour later, or have no battery."""
    _own(tmp_path)
    certificate = read(tmp_path / "tls" / CERT)
    then = datetime(year, 6, 1, tzinfo=UTC)
    assert certificate.not_valid_before_utc < then < certificate.not_valid_after_utc


def test_a_node_s_own_certificate_opens_its_engine_and_no_other(tmp_path):
    """Scheduler and client of one start trust each other; a certificate of another start fails."""
    ours, others = _own(tmp_path / "a"), _own(tmp_path / "b")
    with LocalCluster(
        n_workers=0, processes=False, dashboard_address=None, security=ours, protocol="tls"
    ) as cluster:
        address = cluster.scheduler_address
        with Client(address, security=ours, set_as_default=False, timeout=10) as client:
            assert client.status == "running"
        with pytest.raises(OSError, match=r"certificate|Timed out"):
            Client(address, security=others, set_as_default=False, timeout=1)


def _own(folder: Path) -> Security:
    """What a node on one host makes at its start."""
    folder.mkdir(exist_ok=True)
    config = folder / "node.toml"
    config.write_text(
        'data_dir = "."\nmodel.bundle = "b"\n'
        '[[destination]]\nkind = "folder"\nname = "o"\nfolder = "o"\n'
    )
    found = load_config(config)
    engine_tls.prepare(found)
    assert (folder / "tls" / KEY).stat().st_mode & 0o777 == 0o600
    return engine_tls.security_of(found)


def test_the_certificates_have_names_and_an_end(made):
    """Names and addresses, no right to sign, and a limited life."""
    certificate = read(made / ENGINE / "gpu-1" / CERT)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gpu-1"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.7"]
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert not basic.value.ca
    assert certificate.not_valid_before_utc < NOW
    assert timedelta(0) < certificate.not_valid_after_utc - NOW <= timedelta(days=825)
    authority = read(made / ENGINE / CA)
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert authority.not_valid_after_utc > certificate.not_valid_after_utc


def test_neither_authority_vouches_for_the_others_hosts(made):
    """Engine and DICOM have separate chains of trust."""
    for kind, other in ((ENGINE, DICOM), (DICOM, ENGINE)):
        certificate = read(made / kind / "ct" / CERT)
        certificate.verify_directly_issued_by(read(made / kind / CA))
        with pytest.raises((ValueError, InvalidSignature)):
            certificate.verify_directly_issued_by(read(made / other / CA))


def test_a_host_added_later_is_of_the_same_authority_and_nothing_is_overwritten(tmp_path):
    """The second call signs with the first's authorities, the third changes nothing."""
    make(tmp_path, [Host.parse("one")], [], NOW)
    before = (tmp_path / ENGINE / CA).read_bytes()
    make(tmp_path, [Host.parse("two")], [], NOW)
    assert (tmp_path / ENGINE / "two" / CA).read_bytes() == before
    read(tmp_path / ENGINE / "two" / CERT).verify_directly_issued_by(read(tmp_path / ENGINE / CA))
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.pem")}
    with pytest.raises(ConfigWrong, match="one is there already; nothing was changed"):
        make(tmp_path, [Host.parse("three"), Host.parse("one")], [], NOW)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.pem")} == files


def test_an_authority_without_its_key_is_not_replaced(tmp_path):
    """The key may be kept elsewhere, and a new authority would fit no host."""
    make(tmp_path, [Host.parse("one")], [], NOW)
    (tmp_path / ENGINE / CA_KEY).unlink()
    with pytest.raises(ConfigWrong, match=r"ca\.pem is here without ca-key\.pem"):
        make(tmp_path, [Host.parse("two")], [], NOW)


@pytest.mark.parametrize("name", ["", "../up", "a b", "10.0.0.7/8", "ok,", "ok,no name", "-x"])
def test_what_is_no_host_is_refused(name):
    """A name becomes a folder."""
    with pytest.raises(ConfigWrong, match="no host name or address"):
        Host.parse(name)


def test_the_command_says_which_file_goes_where(tmp_path, capsys):
    """What was made, how long it is valid, and what a scanner must never get."""
    out = str(tmp_path / "certs")
    assert main.main(["certs", out, "--host", "ct,10.0.0.2", "--peer", "scanner"]) == 0
    printed = capsys.readouterr().out
    for words in ("engine/ct", "dicom/scanner", "valid until", "never to a scanner", CA_KEY):
        assert words in printed
    assert main.main(["certs", out, "--peer", "scanner"]) == exits.EXIT_WRONG
    assert "is there already" in capsys.readouterr().err


def test_what_an_engine_can_t_use_is_named_before_it_starts(made, tmp_path):
    """A missing file, a key that others can read, a mixture of both kinds, an expired one."""
    with pytest.raises(ConfigWrong, match=r"has no ca\.pem"):
        check_given(tmp_path)
    assert "valid until" in check_given(made / ENGINE / "ct")
    for name in TLS_FILES:
        (tmp_path / name).write_bytes((made / ENGINE / "ct" / name).read_bytes())
    if os.name == "posix":
        (tmp_path / KEY).chmod(0o644)
        with pytest.raises(ConfigWrong, match="can be read by others"):
            check_given(tmp_path)
    (tmp_path / KEY).chmod(0o600)
    (tmp_path / CA).write_bytes((made / DICOM / "ct" / CA).read_bytes())
    with pytest.raises(ConfigWrong, match="is not of the authority"):
        check_given(tmp_path)
    make(tmp_path / "old", [Host.parse("ct")], [], NOW - timedelta(days=900))
    with pytest.raises(ConfigWrong, match="ended on"):
        check_given(tmp_path / "old" / ENGINE / "ct")


@pytest.fixture(scope="module")
def scheduler(made: Path) -> Iterator[str]:
    """A real scheduler with the engine's certificates."""
    port = free_port()
    ca, cert, key = (str(made / ENGINE / "gpu-1" / name) for name in TLS_FILES)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"),
            *("--port", str(port), "--protocol", "tls", "--no-dashboard"),
            *("--dashboard-address", "127.0.0.1:0"),
            *("--tls-ca-file", ca, "--tls-cert", cert, "--tls-key", key),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines: list[str] = []
    wait_for(lambda: "Scheduler at" in (lines.append(process.stderr.readline()) or lines[-1]), 60)
    yield f"127.0.0.1:{port}"
    process.kill()
    process.wait()
    process.stderr.close()


def security(certificate: Path, authority: Path) -> Security:
    """A client that shows this certificate and trusts this authority."""
    return Security(
        require_encryption=True,
        tls_ca_file=str(authority),
        tls_client_cert=str(certificate / CERT),
        tls_client_key=str(certificate / KEY),
    )


def submit(address: str, secured: Security | None) -> str:
    """Run a function on the scheduler, as any client can that gets in."""
    with Client(address, security=secured, timeout=5, set_as_default=False) as client:
        return client.run_on_scheduler(lambda: "ran")


def test_a_host_of_the_engine_may_submit(made, scheduler):
    """With the right certificate the same call runs."""
    ct = made / ENGINE / "ct"
    assert submit(f"tls://{scheduler}", security(ct, ct / CA)) == "ran"


@pytest.mark.parametrize("trusted", [ENGINE, DICOM])
def test_a_scanners_certificate_submits_nothing(made, scheduler, trusted):
    """Not even if the scanner trusts the engine's authority, whose certificate is no secret."""
    secured = security(made / DICOM / "scanner", made / trusted / CA)
    with pytest.raises(OSError, match=r"(?i)timed out|tls|ssl|closed|certificate"):
        submit(f"tls://{scheduler}", secured)


def test_a_connection_without_tls_submits_nothing(scheduler):
    """Dask's default transport is refused."""
    with pytest.raises(OSError, match=r"(?i)timed out|closed|stream"):
        submit(f"tcp://{scheduler}", None)


def shake_hands(made: Path, client: str, server: str, called: str) -> None:
    """TLS between a sender and the node, without a network; raises if one side refuses."""

    def tls(folder: str) -> dict[str, Path]:
        host = made / folder
        return {"certificate": host / CERT, "key": host / KEY, "ca": made / DICOM / CA}

    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sender = requestor_context(PeerTls(**tls(client)))
    receiver = acceptor_context(Tls(**tls(server)))
    ends = [
        sender.wrap_bio(to_client, to_server, server_hostname=called),
        receiver.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(6):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    ends[0].write(b"A-ASSOCIATE-RQ")
    assert ends[1].read(64) == b"A-ASSOCIATE-RQ"


@pytest.mark.parametrize("called", ["gpu-1", "10.0.0.7"])
def test_a_dicom_certificate_is_accepted(made, called):
    """Both ends have a certificate, and the server's names it, by name or by address."""
    shake_hands(made, "dicom/scanner", "dicom/gpu-1", called)


@pytest.mark.parametrize(
    ("client", "server", "called"),
    [
        ("engine/ct", "dicom/gpu-1", "gpu-1"),
        ("dicom/scanner", "engine/gpu-1", "gpu-1"),
        ("dicom/scanner", "dicom/gpu-1", "another"),
    ],
)
def test_no_other_certificate_is_accepted(made, client, server, called):
    """Neither the engine's, at either end, nor one with another name."""
    with pytest.raises(ssl.SSLError):
        shake_hands(made, client, server, called)
