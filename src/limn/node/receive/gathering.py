"""One series that is coming in: its instances, its associations, its versions."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from limn.dicom.instance import ReceivedInstance, input_digest, positions_mm
from limn.node.receive.breaks import Breaks, Feed
from limn.node.receive.completeness import Arrivals, Opening, Rules, Verdict, is_uniform
from limn.node.store.disk.spool import Released

# If the node stops so soon after the last slice, a series that came over several associations may
# be incomplete.
MID_SERIES_S = 5.0
# A slice that comes so long after a series was handed over is no sign of its sender's pace.
FORGET_S = 60.0


@dataclass(frozen=True, slots=True)
class Source:
    """Where an instance comes from.

    Attributes
    ----------
    key : one association, or one watched folder
    sender : for people
    settle_s : how long this source must be quiet
    is_folder : it is a watched folder
    """

    key: str
    sender: str
    settle_s: float
    is_folder: bool = False


@dataclass(frozen=True, slots=True)
class SeriesVersion:
    """The instances that one structure set is drawn from."""

    instances: tuple[ReceivedInstance, ...]

    @property
    def uids(self) -> set[str]:
        """SOP Instance UIDs."""
        return {each.sop_instance_uid for each in self.instances}

    @property
    def positions_mm(self) -> list[float | None]:
        """Position of every slice along the normal of them all."""
        return positions_mm(self.instances)

    @property
    def rounding_mm(self) -> float:
        """Size of the last decimal in which the headers give their positions."""
        return min((each.rounding_mm for each in self.instances), default=0.0)

    @property
    def announced_slices(self) -> int | None:
        """How many slices the headers announce, if most of them agree."""
        counts = Counter(each.announced_slices for each in self.instances)
        announced, agree = next(iter(counts.most_common(1)), (None, 0))
        return announced if 2 * agree > len(self.instances) else None

    @property
    def is_uniform(self) -> bool:
        """Whether the slices are equally far apart and none is missing."""
        return is_uniform(self.positions_mm, self.rounding_mm)

    def reaches_as_far_as(self, other: SeriesVersion) -> bool:
        """Whether its slices cover the stretch that those of another version cover."""
        own = [mm for mm in self.positions_mm if mm is not None]
        others = [mm for mm in other.positions_mm if mm is not None]
        if not others:
            return True
        # Half a slice: another reconstruction may have slices of another thickness.
        margin_mm = (max(own) - min(own)) / max(1, len(own) - 1) / 2 if own else 0.0
        return (
            bool(own)
            and min(own) <= min(others) + margin_mm
            and max(own) >= max(others) - margin_mm
        )

    @property
    def digest(self) -> str:
        """What identifies the content."""
        return input_digest(self.instances)


@dataclass(slots=True)
class Gathering:
    """One series that is coming in. Times: ``_s`` monotonic, ``_at`` UTC.

    Attributes
    ----------
    open_sources : associations that brought a slice, and what each brought
    breaks : what broke off, of which the series still lacks something
    handed_over : SOP Instance UIDs that some version was contoured from
    newest : those of the newest version
    whole_again : those of one association that brought a whole stack after a break
    came : those that came since the last hand-over, known or not
    associations : how many brought slices without a longer silence between them; a watched folder
        counts anew each time it was quiet
    longest_pause_s : between the first bytes of two slices of these
    began_s : when the first byte of the newest slice came; None before the first and after an abort
    recovered : it was read from the spool and nothing came since
    noted : what its folder's note says, if it was written since the start
    reported : what it waited for when that was logged
    changed : something came since then
    writing : lock of the one thread that writes into the series
    pins : threads that are taking an instance into it; while there are any it stays in memory
    """

    series_instance_uid: str
    folder: Path
    study_instance_uid: str
    animal: str
    first_s: float
    last_s: float
    last_at: float
    sender: str = ""
    settle_s: float = 0.0
    instances: dict[str, ReceivedInstance] = field(default_factory=dict)
    open_sources: dict[str, Feed] = field(default_factory=dict)
    breaks: Breaks = field(default_factory=Breaks)
    handed_over: set[str] = field(default_factory=set)
    newest: set[str] = field(default_factory=set)
    whole_again: set[str] = field(default_factory=set)
    came: set[str] = field(default_factory=set)
    changed: bool = True
    writing: threading.Lock = field(default_factory=threading.Lock)
    associations: int = 0
    longest_pause_s: float = 0.0
    began_s: float | None = None
    recovered: bool = False
    noted: Released | None = None
    reported: set[str] = field(default_factory=set)
    pins: int = 0

    @classmethod
    def begin(cls, instance: ReceivedInstance, folder: Path, now_s: float) -> Gathering:
        """A series without instances, of which this one is the first to come."""
        return cls(
            series_instance_uid=instance.series_instance_uid,
            folder=folder,
            study_instance_uid=instance.study_instance_uid,
            animal=instance.animal,
            first_s=now_s,
            last_s=now_s,
            last_at=time.time(),
        )

    @property
    def pending(self) -> bool:
        """Whether an instance is not in the journal yet; one that no disk took does not count."""
        return self.changed and bool(self.instances)

    @property
    def idle(self) -> bool:
        """Whether nothing of it is pending or coming in."""
        return not (self.pending or self.open_sources or self.pins)

    def add(
        self,
        instance: ReceivedInstance,
        source: Source,
        now_s: float,
        *,
        arrived_s: float | None = None,
        began_s: float | None = None,
    ) -> None:
        """Note an instance that lies in the spool.

        Parameters
        ----------
        arrived_s : when it had come, if that was before now
        began_s : when its first byte came, if that is known
        """
        arrived_s = now_s if arrived_s is None else arrived_s
        self._note_pace(source, arrived_s if began_s is None else began_s)
        self.recovered = False
        if not self.instances:
            self.first_s = arrived_s
        self.first_s = min(self.first_s, arrived_s)
        is_new = instance.sop_instance_uid not in self.instances
        self.instances[instance.sop_instance_uid] = instance
        self.came_elsewhere(instance.sop_instance_uid, new=is_new)
        self.came.add(instance.sop_instance_uid)
        self.whole_again.clear()
        if arrived_s >= self.last_s or len(self.instances) == 1:
            self.last_s = arrived_s
            self.last_at = time.time() - (now_s - arrived_s)
        feed = self.open_sources.setdefault(source.key, Feed(now_s, source.is_folder))
        feed.brought.setdefault(instance.sop_instance_uid)
        self.sender = source.sender
        self.settle_s = source.settle_s
        self.changed = True

    def replaced(self, sop_instance_uid: str) -> None:
        """Its file was changed: what a version was contoured from is not what comes now."""
        if sop_instance_uid in self.handed_over:
            self.handed_over.remove(sop_instance_uid)
            # It is no next part of the series, so the time until now is no pace.
            self.associations, self.longest_pause_s, self.began_s = 0, 0.0, None

    def _note_pace(self, source: Source, began_s: float) -> None:
        if not (self.pending or self.open_sources) and began_s - self.last_s > FORGET_S:
            self.associations, self.longest_pause_s, self.began_s = 0, 0.0, None
        if self.began_s is not None:
            self.longest_pause_s = max(self.longest_pause_s, began_s - self.began_s)
        self.began_s = began_s if self.began_s is None else max(self.began_s, began_s)
        self.associations += source.key not in self.open_sources

    def end_source(
        self, key: str, now_s: float, *, aborted: bool, missing: Iterable[str] = ()
    ) -> bool:
        """An association that brought a slice ended; returns whether all have ended well.

        Parameters
        ----------
        missing : SOP Instance UIDs that it is known not to have brought
        """
        feed = self.open_sources.pop(key)
        lacking = {uid for uid in missing if uid not in self.instances}
        if aborted or lacking:
            # What comes over its next association is a resend: the break is no pause of a scanner.
            self.associations -= 1
            self.break_off(now_s, lacking or None, {} if feed.knows_files else feed.brought)
            self.doubt_end(goes_on=aborted and not feed.knows_files)
        elif self.breaks or self.breaks.goes_on:
            whole = self._is_whole_again(feed)
            if whole and self.breaks:
                self.whole_again = set(feed.brought)
            self.breaks.released(feed, self.instances, whole=whole)
        return not self.breaks and not self.open_sources

    def doubt_end(self, *, goes_on: bool) -> None:
        """If an association broke off, nobody knows yet how its sender goes on."""
        self.breaks.goes_on |= goes_on
        if goes_on and self.associations <= 1:
            # The pace within one association is not that between two.
            self.longest_pause_s = 0.0

    def _is_whole_again(self, feed: Feed) -> bool:
        """Whether one association brought an even stack that reaches as far as all there was."""
        own = self.version_of(set(feed.brought))
        return own.is_uniform and own.reaches_as_far_as(self.version_of(set(self.instances)))

    def break_off(
        self,
        now_s: float,
        missing: set[str] | None = None,
        brought: dict[str, None] | None = None,
    ) -> None:
        """A slice of it was lost on the way; it waits for the resend.

        Parameters
        ----------
        missing : SOP Instance UIDs; None if nobody knows which
        brought : over the association that broke off
        """
        self.breaks.add(now_s, missing, brought or {})
        self.last_s = now_s
        self.began_s = None

    def lost(self, now_s: float, missing: Iterable[str], *, broke_off: bool = False) -> None:
        """Slices of it were refused or cut off; it waits for those that have not come.

        Parameters
        ----------
        broke_off : the association that was to bring them is over
        """
        lacking = {uid for uid in missing if uid not in self.instances}
        if lacking:
            self.break_off(now_s, lacking)
            self.doubt_end(goes_on=broke_off)

    def came_elsewhere(self, sop_instance_uid: str, *, new: bool = False) -> None:
        """A slice was stored that a break may have named as missing, in this or another series."""
        self.breaks.came(sop_instance_uid, new=new)

    def lacks(self, sop_instance_uid: str, sender: str) -> bool:
        """Whether this slice of its sender is one that has not come yet."""
        known = sop_instance_uid in self.instances
        return self.pending and self.sender == sender and not known

    def may_be_cut_off(self, now_s: float) -> bool:
        """Whether the sender may be in the middle of it, over one association after another."""
        return self.pending and now_s - self.last_s < MID_SERIES_S and self.associations > 1

    @property
    def released(self) -> Released:
        """The note for its folder while no association is open; of no instance if it lacks some."""
        if self.breaks:
            return Released(sender=self.sender)
        pause_s = round(self.longest_pause_s, 3)
        return Released(len(self.instances), self.sender, self.associations, pause_s)

    def forget_instances(self) -> None:
        """Its files were removed from the spool."""
        self.instances.clear()
        self.handed_over.clear()
        self.newest.clear()
        self.came.clear()
        self.whole_again.clear()
        self.breaks.clear()

    def rules(self, site: Rules) -> Rules:
        """The site's rules, with the silence that its source needs."""
        return replace(site, settle_s=self.settle_s) if self.settle_s else site

    def is_coming_in(self, rules: Rules, now_s: float) -> bool:
        """Whether `decide` can only say WAIT; this is cheaper, and runs often while slices come."""
        if self.is_quiet(rules, now_s):
            return False
        count = sum(len(each.places) for each in self.instances.values())
        return rules.expected_slices is None or count < rules.expected_slices

    def is_quiet(self, rules: Rules, now_s: float) -> bool:
        """Whether no association is open and nothing came for ``settle_s``."""
        return not self.open_sources and now_s - self.last_s >= rules.settle_s

    def next_version(self, min_slices: int) -> SeriesVersion:
        """The newest version with the late slices, or new content alone.

        A series that was reconstructed again under its old UID comes as other instances at the same
        positions; they replace the old ones if they reach as far. So does a whole stack that came
        after a break. Late slices lie beside the old ones.
        """
        new = self.instances.keys() - self.handed_over
        both = self.version_of(self.newest | new)
        batch = self.version_of(self.whole_again or self.came | new)
        replaces = (
            len(batch.positions_mm) >= min_slices
            and not both.is_uniform
            and batch.is_uniform
            and batch.reaches_as_far_as(self.version_of(self.newest))
        )
        return batch if replaces else both

    def version_of(self, uids: set[str]) -> SeriesVersion:
        """These instances as a version."""
        return SeriesVersion(tuple(i for uid, i in self.instances.items() if uid in uids))

    def arrivals(self, version: SeriesVersion, openings: Sequence[Opening] = ()) -> Arrivals:
        """What `decide` needs to know."""
        in_doubt = self.breaks.goes_on
        has_no_pace = self.recovered or (in_doubt and not self.longest_pause_s)
        return Arrivals(
            positions_mm=version.positions_mm,
            rounding_mm=version.rounding_mm,
            announced_slices=version.announced_slices,
            open_associations=len(self.open_sources),
            aborted=bool(self.breaks),
            last_arrival_s=self.last_s,
            # After a break the end of an association does not say that its sender is done.
            associations=max(2, self.associations) if in_doubt else self.associations,
            # Its sender may not know yet that limn runs again, or its pace is not known: hold_s.
            longest_pause_s=math.inf if has_no_pace else self.longest_pause_s,
            openings=openings,
        )

    def mark_handed_over(self, version: SeriesVersion, *, is_new: bool, refused: bool) -> None:
        """The journal has taken a version, or knew it already."""
        self.changed = False
        self.came.clear()
        self.whole_again.clear()
        self.reported.clear()
        self.breaks.goes_on = bool(self.breaks)
        if self.associations <= 2:
            # It came in one piece; the time until the next piece is no pace.
            self.associations, self.longest_pause_s, self.began_s = 1, 0.0, None
        if not refused:
            self.handed_over |= version.uids
            if is_new or not self.newest:
                self.newest = version.uids


@dataclass(frozen=True, slots=True)
class SettledSeries:
    """A version that is ready for the journal, with the verdict and the rules that led to it.

    Attributes
    ----------
    settled_s : when the verdict was given, monotonic
    single_slices : if it is a series of one slice, how many of these its study has
    """

    gathering: Gathering
    version: SeriesVersion
    verdict: Verdict
    rules: Rules
    settled_s: float
    single_slices: int = 0
