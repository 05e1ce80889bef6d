"""Certificate authorities of a test, and certificates that they sign."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Papers:
    """Three PEM files."""

    certificate: Path
    key: Path
    ca: Path

    def values(self) -> dict[str, str]:
        """As the config has them."""
        return {name: str(getattr(self, name)) for name in ("certificate", "key", "ca")}


class Authority:
    """A CA in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = rsa.generate_private_key(65537, 2048)
        certificate = self._signed(self._name, self._key.public_key(), is_ca=True)
        self.path = folder / f"{name}-ca.pem"
        self.path.write_bytes(certificate)

    def issue(self, name: str, host: str = "127.0.0.1") -> Papers:
        """A certificate for a host, its key, and who vouches for it."""
        key = rsa.generate_private_key(65537, 2048)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        found = Papers(self._folder / f"{name}.pem", self._folder / f"{name}.key", self.path)
        found.certificate.write_bytes(self._signed(subject, key.public_key(), host=host))
        found.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        found.key.chmod(0o600)
        return found

    def _signed(
        self,
        subject: x509.Name,
        key: rsa.RSAPublicKey,
        *,
        is_ca: bool = False,
        host: str = "",
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if host:
            name = (
                x509.IPAddress(ipaddress.ip_address(host))
                if host[0].isdigit()
                else x509.DNSName(host)
            )
            builder = builder.add_extension(x509.SubjectAlternativeName([name]), critical=False)
        signed = builder.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)
