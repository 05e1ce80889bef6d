"""What a series lost when an association broke off, and whether it has come after all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from limn.dicom.instance import ReceivedInstance, positions_mm

# Of so many breaks of one series limn keeps apart what each lacks.
MOST_BREAKS = 16
# Of so many slices it is known that they are missing; beyond, only a whole stack mends the break.
MOST_MISSING = 20_000


@dataclass(slots=True)
class Feed:
    """An open association, or a watched folder, that has brought slices of a series.

    Attributes
    ----------
    began_s : when it brought the first of them, monotonic
    knows_files : it sees its files until they are taken, and says itself that none is missing
    brought : their SOP Instance UIDs, in the order in which they came first
    """

    began_s: float
    knows_files: bool = False
    brought: dict[str, None] = field(default_factory=dict)


@dataclass(slots=True)
class Break:
    """An association that broke off, or of which slices were not taken.

    Attributes
    ----------
    at_s : when, monotonic
    missing : SOP Instance UIDs that are known to be missing; None if nobody knows which are
    brought : what it had brought, in this order
    again : which of these came once more
    new_came : whether a slice came after it that the series did not have
    several : it stands for several breaks, and nothing but a whole stack mends it
    """

    at_s: float
    missing: set[str] | None
    brought: dict[str, None] = field(default_factory=dict)
    again: set[str] = field(default_factory=set)
    new_came: bool = False
    several: bool = False

    def came(self, sop_instance_uid: str, *, new: bool) -> None:
        """Note a slice that was stored after the break."""
        if self.missing is not None:
            self.missing.discard(sop_instance_uid)
        if sop_instance_uid in self.brought:
            self.again.add(sop_instance_uid)
        self.new_came |= new

    @property
    def lacks_nothing(self) -> bool:
        """Whether all that was known to be missing has come."""
        return self.missing is not None and not self.missing

    def is_mended(  # noqa: PLR0911 - a ladder
        self, later: Feed, instances: Mapping[str, ReceivedInstance]
    ) -> bool:
        """Whether the series has what the association would have brought, at a later release.

        What was known to be missing has come. Or the later association began after the break, and
        has sent the same again; or, if nobody knows what is missing, it has gone on where this one
        stopped.

        Parameters
        ----------
        later : the association that was released
        instances : of the series, by SOP Instance UID
        """
        if self.lacks_nothing:
            return True
        if later.began_s <= self.at_s or self.several:
            return False
        if self.again.issuperset(self.brought) and (self.brought or self.missing is None):
            return True
        if self.missing is not None:
            return False
        if next(iter(later.brought), "") == next(reversed(self.brought), None):
            # Its answer was lost, and the sender goes on with it.
            return True
        slices_mm = _slices_mm(instances)
        edge = self._edge(slices_mm)
        if edge is None:
            return self.new_came
        last_mm, ascends = edge
        others = (mm for uid, mm in slices_mm if uid not in self.brought)
        return any(mm > last_mm if ascends else mm < last_mm for mm in others)

    def _edge(self, slices_mm: Sequence[tuple[str, float]]) -> tuple[float, bool] | None:
        """Where the stack ended as it broke off, and whether it ascended there.

        None if the slices came in no order, or are too few to tell.
        """
        of = defaultdict[str, list[float]](list)
        for uid, mm in slices_mm:
            of[uid].append(mm)
        positions = [mm for uid in self.brought for mm in of.get(uid, ())]
        pairs = list(pairwise(positions))
        if not pairs:
            return None
        if all(before < after for before, after in pairs):
            return positions[-1], True
        return (positions[-1], False) if all(a > b for a, b in pairs) else None

    def joined(self, other: Break) -> Break:
        """One break in place of two: what both are known to lack, or nobody knows what."""
        at_s = max(self.at_s, other.at_s)
        if self.missing is not None and other.missing is not None:
            missing = self.missing | other.missing
            if len(missing) <= MOST_MISSING:
                return Break(at_s, missing)
        return Break(at_s, None, several=True)


@dataclass(slots=True)
class Breaks:
    """All that broke off of a series and is not mended.

    Attributes
    ----------
    goes_on : an association broke off, and no later one has brought the whole stack: whether its
        sender is done only its pace can say
    """

    goes_on: bool = False
    _open: list[Break] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, at_s: float, missing: set[str] | None, brought: dict[str, None]) -> None:
        """One more; of very many the oldest are joined, and none is forgotten."""
        # A sender that breaks off again and again brings the same each time.
        self._open = [
            each
            for each in self._open
            if each.missing is not None
            or each.several
            or not each.brought
            or not each.brought.keys() <= brought.keys()
        ]
        self._open.append(Break(at_s, missing, brought))
        if len(self._open) > MOST_BREAKS:
            first, second, *others = self._open
            self._open = [first.joined(second), *others]

    def came(self, sop_instance_uid: str, *, new: bool) -> None:
        """A slice was stored that a break may have named as missing."""
        for each in self._open:
            each.came(sop_instance_uid, new=new)
        self._open = [each for each in self._open if not each.lacks_nothing]

    def released(
        self, feed: Feed, instances: Mapping[str, ReceivedInstance], *, whole: bool
    ) -> None:
        """An association of the series was released.

        Parameters
        ----------
        instances : of the series, by SOP Instance UID
        whole : it brought an even stack that reaches as far as all there was
        """
        self._open = [
            each
            for each in self._open
            if not each.is_mended(feed, instances) and not (whole and feed.began_s > each.at_s)
        ]
        if whole and not self._open:
            self.goes_on = False

    def clear(self) -> None:
        """The files of the series were removed."""
        self._open.clear()
        self.goes_on = False


def _slices_mm(instances: Mapping[str, ReceivedInstance]) -> list[tuple[str, float]]:
    """SOP Instance UID and position of every slice that has one."""
    uids = [uid for uid, each in instances.items() for _ in each.places]
    found = zip(uids, positions_mm(instances.values()), strict=True)
    return [(uid, mm) for uid, mm in found if mm is not None]
