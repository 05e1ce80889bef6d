"""What one peer may take of time and memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one peer may take of time and memory.

    Attributes
    ----------
    max_pdu : bytes, as told to the peer; twice that is the end
    max_message_bytes : of one DIMSE message
    max_incoming_bytes : of all instances together that are not answered yet, whoever sends them
    idle_s : silence on an association, and the longest that one PDU may take
    artim_s : from the connection to the whole A-ASSOCIATE-RQ; TLS has as long for itself
    max_connections : sockets at once, with and without an association
    """

    max_pdu: int
    max_message_bytes: int
    max_incoming_bytes: int
    idle_s: float
    artim_s: float
    max_connections: int
