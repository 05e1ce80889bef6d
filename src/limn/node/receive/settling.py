"""Which version of a series is ready for the journal now, and why one that waits must wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from limn.node.receive.completeness import Decision, Opening, Rules, Verdict, judge
from limn.node.receive.gathering import Gathering, SeriesVersion, SettledSeries


@dataclass(frozen=True, slots=True)
class Settling:
    """The site's rules, applied to one series after another.

    Attributes
    ----------
    knows : whether the journal has a version with this Series Instance UID and digest
    openings : associations of a sender that may feed any series
    several : senders whose last series came over more than one association
    """

    rules: Rules
    knows: Callable[[str, str], bool]
    openings: Callable[[str], Sequence[Opening]]
    several: set[str] = field(default_factory=set)

    def settled(self, gathering: Gathering, now_s: float) -> SettledSeries | None:
        """The version that is ready for the journal; None while the series must wait."""
        rules = gathering.rules(self.rules)
        if gathering.is_coming_in(rules, now_s):
            return None
        if gathering.instances.keys() <= gathering.handed_over:
            return self._resent(gathering, rules, now_s)
        version = gathering.next_version(rules.min_slices)
        decision = self._judge(gathering, version, rules, now_s)
        if decision.verdict is Verdict.WAIT:
            return None
        return SettledSeries(gathering, version, decision.verdict, rules, now_s)

    def remember(self, gathering: Gathering) -> None:
        """Note how a series that is complete came: its sender's next one may come so too."""
        if gathering.associations > 1:
            self.several.add(gathering.sender)
        else:
            self.several.discard(gathering.sender)

    def decision(self, gathering: Gathering, now_s: float) -> Decision:
        """What is decided on a series that is coming in."""
        rules = gathering.rules(self.rules)
        version = gathering.next_version(rules.min_slices)
        return self._judge(gathering, version, rules, now_s)

    def _judge(
        self, gathering: Gathering, version: SeriesVersion, rules: Rules, now_s: float
    ) -> Decision:
        uid = gathering.series_instance_uid
        openings = self.openings(gathering.sender)
        arrivals = gathering.arrivals(
            version, [each for each in openings if each.series in ("", uid)]
        )
        if gathering.sender in self.several:
            # With one association released, more may follow: the pace decides from the first on.
            arrivals = replace(arrivals, associations=max(2, arrivals.associations))
        return judge(arrivals, rules, now_s)

    def _resent(self, gathering: Gathering, rules: Rules, now_s: float) -> SettledSeries | None:
        """The version that came again as a whole, so that its structure set is offered again."""
        if not gathering.is_quiet(rules, now_s):
            return None
        version = gathering.version_of(gathering.came)
        if not (version.instances and self.knows(gathering.series_instance_uid, version.digest)):
            # A part that came again means nothing until the rest has come again too.
            gathering.changed = False
            return None
        return SettledSeries(gathering, version, Verdict.COMPLETE, rules, now_s)
