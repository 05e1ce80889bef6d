"""What one peer may take of time and memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one peer may take of time and memory.

    Attributes
    ----------
    max_pdu : bytes, as announced to the peer; a PDU of more than twice that ends the connection
    max_message_bytes : of one DIMSE message
    max_incoming_bytes : of all unanswered instances together, from all senders
    idle_s : longest silence on an association, and longest time for one PDU
    artim_s : from the connection to the end of the A-ASSOCIATE-RQ; the TLS handshake has as long
    max_connections : open sockets, with and without an association
    min_bytes_per_s : of one message, over ``rate_window_s``; a slower one holds memory that other
        senders wait for, and the slowest network is faster
    stop_grace_s : when the node stops, a sender in the middle of a series has as long to end it
    stop_silence_s : a sender that is silent for longer is then not waited for
    """

    max_pdu: int
    max_message_bytes: int
    max_incoming_bytes: int
    idle_s: float
    artim_s: float
    max_connections: int
    min_bytes_per_s: int = 10_000
    rate_window_s: float = 60.0
    stop_grace_s: float = 20.0
    stop_silence_s: float = 2.0
