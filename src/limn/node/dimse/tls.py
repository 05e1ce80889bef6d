"""TLS between the node and its DICOM peers, a certificate on either side (PS3.15 annex B).

A peer with a certificate of the DICOM CA is let in; the system's CAs are not trusted.
"""

from __future__ import annotations

import ssl

from limn.domain.errors import ConfigWrong
from limn.node.config import Config, DicomDestination, PeerTls, Tls
from limn.node.permissions import check_private


def acceptor_context(settings: Tls) -> ssl.SSLContext:
    """For the Storage SCP: a client without a certificate of the DICOM CA is refused.

    Raises
    ------
    ConfigWrong
        Names the file that can't be used.
    """
    return _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), settings)


def requestor_context(settings: PeerTls) -> ssl.SSLContext:
    """For delivery: the peer's certificate must come from the DICOM CA and name the peer.

    Raises
    ------
    ConfigWrong
        Names the file that can't be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = True
    return _load(context, settings)


def check_keys(config: Config) -> None:
    """Try every certificate that the config names.

    Raises
    ------
    ConfigWrong
        Names the first file that can't be used, and what to do.
    """
    if config.receive.tls is not None:
        acceptor_context(config.receive.tls)
    for tls in peers_tls(config):
        requestor_context(tls)


def peers_tls(config: Config) -> list[PeerTls]:
    """TLS settings of every peer that the node calls, for reports of storage commitment too."""
    dicom = (each for each in config.destination if isinstance(each, DicomDestination))
    found = [*(each.tls for each in config.receive.commitment), *(each.tls for each in dicom)]
    return [tls for tls in found if tls is not None]


def _load(context: ssl.SSLContext, settings: Tls) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    check_private(settings.key, "TLS key")
    try:
        # An empty password: without one OpenSSL would wait for it at the terminal.
        context.load_cert_chain(settings.certificate, settings.key, password=b"")
    except (OSError, ValueError) as error:
        msg = f"TLS certificate {settings.certificate} with key {settings.key}: {error}"
        raise ConfigWrong(msg) from error
    try:
        context.load_verify_locations(settings.ca)
    except OSError as error:
        msg = f"TLS ca {settings.ca}: {error}"
        raise ConfigWrong(msg) from error
    return context
