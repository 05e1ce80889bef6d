"""What a series lost when an association broke off, and whether it has come after all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from limn.dicom.instance import ReceivedInstance


@dataclass(slots=True)
class Feed:
    """An open association, or a watched folder, that has brought slices of a series.

    Attributes
    ----------
    began_s : when it brought the first of them, monotonic
    knows_files : it sees its files until they are taken, and says itself that none is missing
    brought : their SOP Instance UIDs, in the order in which they came
    """

    began_s: float
    knows_files: bool = False
    brought: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Break:
    """An association that broke off, or of which slices were not taken.

    Attributes
    ----------
    at_s : when, monotonic
    missing : SOP Instance UIDs that are known to be missing; None if none was ever known
    brought : what it had brought, in this order
    again : which of these a later association brought once more
    """

    at_s: float
    missing: set[str] | None
    brought: tuple[str, ...] = ()
    again: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, at_s: float, missing: Iterable[str], brought: Iterable[str] = ()) -> Break:
        """A break of which these slices are known to be missing; perhaps none is known."""
        return cls(at_s, set(missing) or None, tuple(brought))

    def came(self, sop_instance_uid: str) -> None:
        """Note a slice that was stored after the break."""
        if self.missing is not None:
            self.missing.discard(sop_instance_uid)
        if sop_instance_uid in self.brought:
            self.again.add(sop_instance_uid)

    def is_mended(self, began_s: float, instances: Mapping[str, ReceivedInstance]) -> bool:
        """Whether the series has what the association would have brought, at a later release.

        If nobody knows what is missing, the later association must have begun after the break. It
        must have sent the same again, or have gone on where this one stopped.

        Parameters
        ----------
        began_s : when the association that was released brought its first slice
        instances : of the series, by SOP Instance UID
        """
        if self.missing is not None:
            return not self.missing
        if began_s <= self.at_s:
            return False
        if self.again.issuperset(self.brought):
            return True
        edge = self._edge(instances)
        if edge is None:
            return True
        last_mm, ascends = edge
        others = (
            position
            for uid, instance in instances.items()
            if uid not in self.brought
            for position in instance.positions_mm
            if position is not None
        )
        return any(position > last_mm if ascends else position < last_mm for position in others)

    def _edge(self, instances: Mapping[str, ReceivedInstance]) -> tuple[float, bool] | None:
        """Where the stack ended as it broke off, and whether it ascended there.

        None if the slices came in no order, or are too few to tell.
        """
        positions = [
            position
            for uid in self.brought
            if uid in instances
            for position in instances[uid].positions_mm
            if position is not None
        ]
        pairs = list(pairwise(positions))
        if not pairs:
            return None
        if all(before < after for before, after in pairs):
            return positions[-1], True
        return (positions[-1], False) if all(a > b for a, b in pairs) else None
