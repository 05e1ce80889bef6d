"""What is usual among chosen scans, and why one of them was slow."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from limn.domain.timing import DOOR_TO_DOOR_STAGES, in_words
from limn.node.operate.history.scans import PART_OF, STAGE_WORDS, LoggedScan, Part

# A bundle with fewer delivered scans is compared with all scans.
LEAST_USUAL = 5
# So much longer than usual is slow; so much larger than usual is a reason.
SLOW, LARGE = 1.25, 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Half, 95 % and all of some times lie below these seconds; none of no times."""

    count: int
    p50_s: float
    p95_s: float
    max_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The delivered scans of one scanner, bundle or cohort.

    Attributes
    ----------
    count : of all its scans
    """

    name: str
    count: int
    whole: Spread | None
    waiting: Spread | None
    networks: Spread | None
    rest: Spread | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """What made a scan slow, or what took longest in one that was not.

    Attributes
    ----------
    slow : whether the whole was slower than usual
    words : the stage with its seconds, the usual ones, and what else differs
    """

    slow: bool
    stage: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The chosen scans in numbers. Times are those of delivered scans, in seconds.

    Attributes
    ----------
    outcomes, lights, flags : how many scans have each; a flag counts without what follows its colon
    stages : by `DOOR_TO_DOOR_STAGES`
    parts : the same stages, gathered
    person : for which scans waited for a person; no part of ``whole``. Of scans that did
    slowest, why : the slowest delivered scan; None if none was delivered
    """

    count: int
    outcomes: Mapping[str, int]
    lights: Mapping[str, int]
    flags: Mapping[str, int]
    whole: Spread | None
    stages: Mapping[str, Spread]
    parts: Mapping[Part, Spread]
    person: Spread | None
    scanners: tuple[Group, ...]
    bundles: tuple[Group, ...]
    slowest: LoggedScan | None
    why: Why | None


class Usual:
    """What scans usually take: medians of the delivered scans of each bundle, and of all."""

    def __init__(self, scans: Sequence[LoggedScan]) -> None:
        delivered = [scan for scan in scans if scan.delivered_s is not None]
        by_bundle: dict[str, list[LoggedScan]] = {}
        for scan in delivered:
            by_bundle.setdefault(scan.bundle, []).append(scan)
        self._all = _medians(delivered)
        self._of_bundle = {
            bundle: _medians(own) for bundle, own in by_bundle.items() if len(own) >= LEAST_USUAL
        }

    def of(self, scan: LoggedScan) -> _Medians:
        """What is usual for scans like this one."""
        return self._of_bundle.get(scan.bundle, self._all)

    def why(self, scan: LoggedScan) -> Why | None:
        """What made a scan slow, or took longest in it; None if it was not delivered.

        In a slow scan that is the stage that exceeds its usual time most.
        """
        if scan.delivered_s is None:
            return None
        usual = self.of(scan)
        spent = [seconds or 0.0 for seconds in scan.stages_s]
        excess = [s - u for s, u in zip(spent, usual.stages_s, strict=True)]
        slow = scan.delivered_s > SLOW * usual.whole_s and max(excess) > 0.0
        ranked = excess if slow else spent
        at = ranked.index(max(ranked))
        stage = DOOR_TO_DOOR_STAGES[at]
        usually = _usually(spent[at], usual.stages_s[at])
        words = f"{STAGE_WORDS[stage]} {shown_s(spent[at])} s, {usually}"
        if slow and PART_OF[stage] in (Part.NETWORKS, Part.REST):
            words = "; ".join((words, *_causes(scan, usual)))
        if scan.person_s:
            words += f"; waited {in_words(scan.person_s)} for a person, which does not count"
        return Why(slow=slow, stage=stage, words=words)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Medians:
    whole_s: float
    stages_s: tuple[float, ...]
    voxels: float
    device: str


def _medians(scans: Sequence[LoggedScan]) -> _Medians:
    columns = zip(*(scan.stages_s for scan in scans), strict=True) if scans else ()
    voxels = [scan.voxels for scan in scans if scan.voxels]
    devices = Counter(scan.device for scan in scans)
    return _Medians(
        whole_s=_median(scan.delivered_s for scan in scans),
        stages_s=tuple(map(_median, columns)) or (0.0,) * len(DOOR_TO_DOOR_STAGES),
        voxels=statistics.median(voxels) if voxels else 0.0,
        device=devices.most_common(1)[0][0] if devices else "",
    )


def _median(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else 0.0


def _usually(seconds: float, usual_s: float) -> str:
    if abs(seconds - usual_s) < max(0.1, 0.1 * usual_s):
        return "as usual"
    return f"usually {shown_s(usual_s)} s"


def _causes(scan: LoggedScan, usual: _Medians) -> Iterable[str]:
    """What differs from usual in a scan whose computing was slow."""
    if scan.voxels and usual.voxels and scan.voxels > LARGE * usual.voxels:
        yield f"{scan.voxels / 1e6:.1f} million voxels, usually {usual.voxels / 1e6:.1f}"
    if scan.device and usual.device and scan.device != usual.device:
        yield f"on {scan.device}, usually {usual.device}"
    if scan.tries > 1:
        yield f"try {scan.tries}"


def shown_s(seconds: float) -> str:
    """Seconds for people: a short time with two decimals, a long one with one."""
    return f"{seconds:.2f}" if seconds < 10.0 else f"{seconds:.1f}"


def spread(values: Iterable[float | None]) -> Spread | None:
    """Median, 95 % and maximum of the values that are known; None if none is."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    return Spread(
        count=len(known),
        p50_s=statistics.median(known),
        p95_s=known[min(len(known) - 1, int(0.95 * len(known)))],
        max_s=known[-1],
    )


def summary_of(scans: Sequence[LoggedScan], usual: Usual) -> Summary:
    """The chosen scans in numbers."""
    delivered = [scan for scan in scans if scan.delivered_s is not None]
    slowest = max(delivered, key=_slowness, default=None)
    stages = {
        stage: spread(scan.stages_s[at] for scan in delivered)
        for at, stage in enumerate(DOOR_TO_DOOR_STAGES)
    }
    parts = {part: spread(scan.part_s(part) for scan in delivered) for part in Part}
    return Summary(
        count=len(scans),
        outcomes=_counted(scan.outcome for scan in scans),
        lights=_counted(scan.light for scan in scans),
        flags=_counted(name for scan in scans for name in _names_of(scan.flags)),
        whole=spread(scan.delivered_s for scan in delivered),
        stages={stage: found for stage, found in stages.items() if found is not None},
        parts={part: found for part, found in parts.items() if found is not None},
        person=spread(scan.person_s or None for scan in scans),
        scanners=groups_of(scans, lambda scan: scan.scanner),
        bundles=groups_of(scans, lambda scan: scan.bundle),
        slowest=slowest,
        why=None if slowest is None else usual.why(slowest),
    )


def groups_of(
    scans: Iterable[LoggedScan], name_of: Callable[[LoggedScan], str]
) -> tuple[Group, ...]:
    """The scans apart by a name, in the order of the names."""
    groups: dict[str, list[LoggedScan]] = {}
    for scan in scans:
        groups.setdefault(name_of(scan), []).append(scan)
    return tuple(_group(name, own) for name, own in sorted(groups.items()))


def _group(name: str, scans: Sequence[LoggedScan]) -> Group:
    delivered = [scan for scan in scans if scan.delivered_s is not None]
    return Group(
        name=name,
        count=len(scans),
        whole=spread(scan.delivered_s for scan in delivered),
        waiting=spread(scan.waiting_s for scan in delivered),
        networks=spread(scan.part_s(Part.NETWORKS) for scan in delivered),
        rest=spread(scan.part_s(Part.REST) for scan in delivered),
    )


def _slowness(scan: LoggedScan) -> tuple[float, str]:
    return scan.delivered_s or 0.0, scan.name


def _names_of(flags: tuple[str, ...]) -> set[str]:
    # The light has a column of its own.
    return {flag.partition(":")[0] for flag in flags} - {"light"}


def _counted(values: Iterable[str]) -> dict[str, int]:
    counts = Counter(value for value in values if value)
    return dict(sorted(counts.items(), key=lambda each: (-each[1], each[0])))
