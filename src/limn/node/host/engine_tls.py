"""TLS of the engine's connections: they carry pickles, so only its own hosts may open one."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from limn.domain.errors import ConfigWrong
from limn.node.config import Config
from limn.node.host.certs import CA, CERT, KEY, TLS_FILES, own_certificate, read, valid_until

if TYPE_CHECKING:
    from distributed.security import Security

log = logging.getLogger(__name__)

WARNING_BEFORE = timedelta(days=60)


def security_of(config: Config) -> Security:
    """Both ends of every connection must show a certificate of the engine's authority."""
    # The supervisor only writes certificates, and Dask takes half a second to import.
    from distributed.security import Security  # noqa: PLC0415

    ca, cert, key = (str(config.tls_dir / name) for name in TLS_FILES)
    return Security(
        require_encryption=True,
        tls_ca_file=ca,
        tls_scheduler_cert=cert,
        tls_scheduler_key=key,
        tls_worker_cert=cert,
        tls_worker_key=key,
        tls_client_cert=cert,
        tls_client_key=key,
    )


def prepare(config: Config) -> None:
    """Make new certificates for a node on one host at every start, or check the site's own.

    Raises
    ------
    ConfigWrong
        If the site's certificates can't be used.
    """
    if config.engine.tls_dir is None:
        _write_own(config.tls_dir)
    else:
        log.info("engine certificates: %s", check_given(config.engine.tls_dir))


def check_given(folder: Path) -> str:
    """Check the certificates in this folder; returns in words until when they are valid.

    Raises
    ------
    ConfigWrong
        If a file is missing, readable by others, expired or not of this authority.
    """
    for name in TLS_FILES:
        if not (folder / name).is_file():
            msg = (
                f"engine.tls_dir {folder} has no {name}; copy the folder engine/HOST here that "
                "limn certs made for this host"
            )
            raise ConfigWrong(msg)
    if os.name == "posix" and (folder / KEY).stat().st_mode & 0o077:
        msg = f"{folder / KEY} can be read by others; chmod 600 it"
        raise ConfigWrong(msg)
    _check_issuer(folder)
    until = valid_until(folder / CERT)
    left = until - datetime.now(UTC)
    if left < timedelta(0):
        msg = f"{folder / CERT} ended on {until:%Y-%m-%d}; make a new one with limn certs"
        raise ConfigWrong(msg)
    if left < WARNING_BEFORE:
        log.warning(
            "%s ends on %s: make a new one with limn certs before the engine stops",
            folder / CERT,
            f"{until:%Y-%m-%d}",
        )
    return f"valid until {until:%Y-%m-%d}"


def _check_issuer(folder: Path) -> None:
    authority: x509.Certificate = read(folder / CA)
    try:
        read(folder / CERT).verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        msg = (
            f"{folder / CERT} is not of the authority in {CA} beside it; copy the whole folder "
            "that limn certs made for this host"
        )
        raise ConfigWrong(msg) from error


def _write_own(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    certificate, key = own_certificate()
    for name, text in zip(TLS_FILES, (certificate, certificate, key), strict=True):
        path = folder / name
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_bytes(text)
