"""The certificates that a site gave, and when they end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from limn.domain.errors import ConfigWrong
from limn.node.config import Config, DicomDestination
from limn.node.host.certs import CA, CERT, valid_until

# To renew one takes a signature.
RENEW_BEFORE = timedelta(days=30)


def given_certificates(config: Config) -> Iterator[tuple[str, Path]]:
    """The key in the config and the file of each certificate; those that limn makes itself not."""
    if config.engine.tls_dir is not None:
        for name in (CA, CERT):
            yield f"engine.tls_dir/{name}", config.engine.tls_dir / name
    if config.board is not None and config.board.tls is not None:
        yield "board.tls.certificate", config.board.tls.certificate
    tables = [("receive.tls", config.receive.tls)]
    tables += [
        (f"destination.{each.name}.tls", each.tls)
        for each in config.destination
        if isinstance(each, DicomDestination)
    ]
    tables += [
        (f"receive.commitment.{each.ae_title.strip()}.tls", each.tls)
        for each in config.receive.commitment
    ]
    for key, tls in tables:
        if tls is not None:
            yield f"{key}.certificate", tls.certificate
            yield f"{key}.ca", tls.ca


def expiry(certificate: Path) -> datetime:
    """When a certificate ends.

    Raises
    ------
    ConfigWrong
        If it can't be read, has ended or will soon.
    """
    end = valid_until(certificate)
    left = end - datetime.now(UTC)
    if left < RENEW_BEFORE:
        when = "ended" if left < timedelta(0) else "ends"
        msg = (
            f"certificate {certificate} {when} on {end:%Y-%m-%d}; renew it, or nobody can connect "
            "from that day on"
        )
        raise ConfigWrong(msg)
    return end
