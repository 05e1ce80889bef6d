"""How each destination does: what waits for it, when it last took something, what it last said."""

from __future__ import annotations

from dataclasses import dataclass

from limn.node.config import Config
from limn.node.store.disk.contacts import NEVER, DestinationContact, read_destinations
from limn.node.store.journal.reader import JournalReader


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationState:
    """One destination of the config. Times are UTC seconds.

    Attributes
    ----------
    counts : its deliveries by their state
    waits_since : since when the oldest structure set that waits for it may go; `NEVER` for none
    accepted_at : when it last took something; `NEVER` if it never did
    """

    name: str
    counts: dict[str, int]
    waits_since: float
    accepted_at: float
    contact: DestinationContact

    @property
    def waiting(self) -> int:
        """How many structure sets wait for it."""
        return self.counts.get("waiting", 0)

    def waiting_s(self, now: float) -> float:
        """How long the oldest of them has waited."""
        return max(0.0, now - self.waits_since) if self.waits_since else 0.0

    def down_s(self, now: float) -> float:
        """How long it has taken nothing although something waits for it; 0 if it takes files."""
        return min(self.contact.failing_s(now), self.waiting_s(now))


def destination_states(config: Config, journal: JournalReader | None) -> list[DestinationState]:
    """Each destination of the config, in its order; no journal means that no scan has come."""
    found = journal.delivery_counts() if journal is not None else []
    accepted = journal.last_accepted() if journal is not None else {}
    contacts = read_destinations(config.destinations_path)
    states = []
    for each in config.destination:
        contact = contacts.get(each.name, DestinationContact())
        own = [(state, n, since) for name, state, n, since in found if name == each.name]
        states.append(
            DestinationState(
                name=each.name,
                counts={state: n for state, n, _ in own},
                waits_since=next((float(since) for *_, since in own if since is not None), NEVER),
                accepted_at=max(accepted.get(each.name, NEVER), contact.accepted_at),
                contact=contact,
            )
        )
    return states
