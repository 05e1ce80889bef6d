"""Certificates for a site's own use, from two authorities that never vouch for each other.

A host with a certificate of the engine's authority may run code on every host of the engine,
because Dask sends pickles. Scanners and planning systems therefore get theirs from another
authority.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from limn.domain.errors import ConfigWrong

ENGINE, DICOM = "engine", "dicom"
# The files in the folder of a host, and in `engine.tls_dir`.
CA, CERT, KEY = TLS_FILES = ("ca.pem", "cert.pem", "key.pem")
CA_KEY = "ca-key.pem"
CA_LIFE = timedelta(days=3650)
# The longest life of a host's certificate that common TLS libraries accept.
HOST_LIFE = timedelta(days=825)
# Clocks of scanners are often off.
BACKDATED = timedelta(days=1)
ALWAYS_FROM = datetime(1970, 1, 2, tzinfo=UTC)
# What RFC 5280 (4.1.2.5) gives for a certificate without an end.
ALWAYS_UNTIL = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?")

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Host:
    """The names and addresses in a certificate; the first one names its folder."""

    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Host:
        """Read ``NAME,NAME,ADDRESS``.

        Raises
        ------
        ConfigWrong
            If a part is neither a host name nor an IP address.
        """
        names = tuple(name.strip() for name in text.split(","))
        for name in names:
            if not _NAME.fullmatch(name) and (name == names[0] or not _is_address(name)):
                msg = f"{name!r} is no host name or address; give NAME or NAME,10.0.0.7"
                raise ConfigWrong(msg)
        return cls(names)

    @classmethod
    def this(cls) -> Host:
        """The machine that this runs on."""
        return cls((socket.gethostname(), "localhost", "127.0.0.1"))


def make(out: Path, hosts: Sequence[Host], peers: Sequence[Host], now: datetime) -> list[Path]:
    """Write a folder for each host and kind; returns the folders.

    Authorities that ``out`` already holds sign again, so that a host can be added later. A host of
    limn gets a certificate of both kinds, a peer (scanner, planning system) one for DICOM.

    Raises
    ------
    ConfigWrong
        If a host has its folder already, or an authority is there without its key; nothing is
        written then.
    """
    wanted = [(ENGINE, host) for host in hosts] + [(DICOM, host) for host in (*hosts, *peers)]
    folders = [out / kind / host.names[0] for kind, host in wanted]
    for folder in folders:
        if folder.exists() or folders.count(folder) > 1:
            msg = f"{folder} is there already; nothing was changed. Delete it to make it again"
            raise ConfigWrong(msg)
    authorities = {kind: _authority(out / kind, now) for kind in sorted({k for k, _ in wanted})}
    for folder, (kind, host) in zip(folders, wanted, strict=True):
        certificate, key = authorities[kind]
        _issue(folder, host, kind, certificate, key, now)
    return folders


def own_certificate() -> tuple[bytes, bytes]:
    """A certificate that is its own authority, and its key (PEM), for one host and one run.

    It is valid at every time: the clock may be hours or years off when the node starts, and is set
    while it runs. Its life ends with its files.
    """
    key, name = _new_key(ENGINE), _name("limn, this host")
    certificate = (
        _builder(name, name, key, ALWAYS_FROM, ALWAYS_UNTIL)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName(_alternatives(["localhost"])), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), _pem_of_key(key)


def valid_until(certificate: Path) -> datetime:
    """When a certificate expires.

    Raises
    ------
    ConfigWrong
        If the file can't be read or is no certificate.
    """
    return read(certificate).not_valid_after_utc


def _authority(folder: Path, now: datetime) -> tuple[x509.Certificate, _Key]:
    """The authority in this folder, made if there is none."""
    cert_path, key_path = folder / CA, folder / CA_KEY
    if cert_path.exists() != key_path.exists():
        present, absent = sorted((cert_path, key_path), key=Path.exists, reverse=True)
        msg = f"{present} is here without {absent.name}; only both together can sign"
        raise ConfigWrong(msg)
    if cert_path.exists():
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
            msg = f"{key_path} is no key that limn made"
            raise ConfigWrong(msg)
        return read(cert_path), key
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    key = _new_key(folder.name)
    name = _name(f"limn {folder.name} authority")
    certificate = (
        _builder(name, name, key, now, now + CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    _write(key_path, _pem_of_key(key), secret=True)
    _write(cert_path, certificate.public_bytes(serialization.Encoding.PEM))
    return certificate, key


def _issue(
    folder: Path,
    host: Host,
    kind: str,
    authority: x509.Certificate,
    authority_key: _Key,
    now: datetime,
) -> None:
    key = _new_key(kind)
    end = min(now + HOST_LIFE, authority.not_valid_after_utc)
    certificate = (
        _builder(_name(f"{host.names[0]} ({kind})"), authority.subject, key, now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName(_alternatives(host.names)), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    folder.mkdir(parents=True)
    folder.chmod(0o700)
    _write(folder / KEY, _pem_of_key(key), secret=True)
    _write(folder / CERT, certificate.public_bytes(serialization.Encoding.PEM))
    _write(folder / CA, authority.public_bytes(serialization.Encoding.PEM))


def _new_key(kind: str) -> _Key:
    # RSA, because old DICOM devices know nothing else (PS3.15 B.12).
    if kind == DICOM:
        return rsa.generate_private_key(public_exponent=65537, key_size=3072)
    return ec.generate_private_key(ec.SECP256R1())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: _Key, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_encipherment=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternatives(names: Iterable[str]) -> list[x509.GeneralName]:
    return [
        x509.IPAddress(ipaddress.ip_address(name)) if _is_address(name) else x509.DNSName(name)
        for name in names
    ]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _pem_of_key(key: _Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, text: bytes, *, secret: bool = False) -> None:
    # The mode before the contents: others can read a key at no moment.
    path.touch(mode=0o600 if secret else 0o644, exist_ok=False)
    path.write_bytes(text)


def read(path: Path) -> x509.Certificate:
    """The certificate in this file.

    Raises
    ------
    ConfigWrong
        If it can't be read or is no certificate.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        msg = f"{path} is no certificate that can be read: {error}"
        raise ConfigWrong(msg) from error


WHERE = """\
engine/{host}  to that host alone, over a way you trust; engine.tls_dir names the folder.
               Its owner may run code on every host of the engine: never to a scanner.
dicom/{host}   to that host, or dicom/PEER to that scanner or planning system, for TLS on DICOM.
*/ca-key.pem   stays in {out}, offline if you can: it makes further certificates.
"""


def explain(out: Path, folders: Sequence[Path]) -> str:
    """Tells the operator what was made and which file goes where."""
    ends = {valid_until(folder / CERT).date() for folder in folders}
    made = "\n".join(f"made {folder}" for folder in folders)
    until = f"valid until {min(ends)}; add hosts later with the same command"
    return f"{made}\n{until}\n\n{WHERE.format(host='HOST', out=out)}"


def now_utc() -> datetime:
    """The clock of the command line."""
    return datetime.now(UTC)
