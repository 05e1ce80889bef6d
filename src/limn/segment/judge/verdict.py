"""The one rule by which a scan is believed or held: concerns, each with a light and a reason.

A scan's light is that of its worst concern, an organ's light that of the worst concern about it.
Without a judge (`quality.Judge`) an organ that nothing speaks against has no light: nothing was
predicted of it. DESIGN.md D-221.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from limn.domain.light import Light, worst
from limn.domain.scan import Organ, Role, by_role
from limn.segment.bundle.species import Species
from limn.segment.draw.delineate import Delineated
from limn.segment.draw.sides import Sides
from limn.segment.engine.localisation.orient import MIN_RIGHT_SHARE, Lie, right_lung_share
from limn.segment.judge.quality import Judge, Quality
from limn.segment.judge.signs import Signs
from limn.segment.judge.size_doubt import size_doubt

# Which light holds a scan. Left and right in doubt hold it always.
HoldRule = Literal["red", "amber", "sides"]
HELD_LIGHTS: Mapping[HoldRule, frozenset[Light]] = {
    "red": frozenset({Light.RED}),
    "amber": frozenset({Light.RED, Light.AMBER}),
    "sides": frozenset(),
}

# Folds that agree less than this on an organ see something that none of them was trained on.
LEAST_FOLD_DSC = 0.8
# Folds that agree less than this draw different things.
HELD_FOLD_DSC = 0.6
# A prediction whose interval begins below this knows too little for green.
LEAST_LOW_DSC = 0.5
# So many voxels of an organ lie in the field's outermost layer, for each voxel of its surface.
CUT_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Concern:
    """One thing that speaks against the contours of a scan.

    Attributes
    ----------
    organ : None if it is about the whole scan
    flag : for the record
    note : for the reader of the structure set, who also learns whether it holds the scan; empty if
        the reader needs none
    reason : for a person: what was found, and what to do
    always_holds : whether it holds the scan whatever the site decides
    headline : in capitals, over the picture of a held scan
    """

    light: Light
    organ: Organ | None
    flag: str
    note: str
    reason: str
    always_holds: bool = False
    headline: str = "LOOK FIRST"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far the contours of a scan may be trusted.

    Attributes
    ----------
    concerns : the most important first
    quality : what is predicted of each organ; empty without a judge
    """

    concerns: tuple[Concern, ...]
    quality: Mapping[Organ, Quality] = field(default_factory=dict)

    @property
    def light(self) -> Light:
        """The light of the scan."""
        return worst(concern.light for concern in self.concerns)

    def light_of(self, organ: Organ) -> Light | None:
        """The light of an organ; None if nothing speaks against it and nothing was predicted."""
        about = [concern.light for concern in self.concerns if concern.organ == organ]
        return worst(about) if about or organ in self.quality else None

    @property
    def headline(self) -> str:
        """What an operator must know first, in capitals; empty if there is no concern."""
        return self.concerns[0].headline if self.concerns else ""

    def organ_words(self, holding: Collection[Concern]) -> Mapping[Organ, str]:
        """What the structure set says of each organ that has a light.

        Parameters
        ----------
        holding : the concerns that hold this structure set
        """
        organs = dict.fromkeys((*self.quality, *(c.organ for c in self.concerns if c.organ)))
        return {organ: self._words_of(organ, holding) for organ in organs}

    def _words_of(self, organ: Organ, holding: Collection[Concern]) -> str:
        words = [f"light {self.light_of(organ)}"]
        if organ in self.quality:
            dsc = self.quality[organ].dsc
            words.append(f"predicted DSC {dsc.middle:.2f} ({dsc.low:.2f} to {dsc.high:.2f})")
        about = [each for each in self.concerns if each.organ == organ]
        return "; ".join((*words, *_notes(about, holding)))

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of the concerns, and the scan's light."""
        judged = () if self.quality else ("not-judged",)
        return (*(concern.flag for concern in self.concerns), f"light:{self.light}", *judged)

    def notes(self, holding: Collection[Concern]) -> tuple[str, ...]:
        """What the structure set says of the scan, beginning with the most important.

        Parameters
        ----------
        holding : the concerns that hold this structure set
        """
        return tuple(dict.fromkeys(_notes(self.concerns, holding)))

    def holding(self, rule: HoldRule) -> tuple[Concern, ...]:
        """The concerns for which a person must look before the structure set is delivered."""
        return tuple(
            each for each in self.concerns if each.always_holds or each.light in HELD_LIGHTS[rule]
        )

    def hold_reason(self, rule: HoldRule) -> str | None:
        """Why a person must look before the structure set is delivered; None if nobody must."""
        return " / ".join(concern.reason for concern in self.holding(rule)) or None


def _notes(concerns: Iterable[Concern], holding: Collection[Concern]) -> Iterator[str]:
    for each in concerns:
        if each.note:
            yield f"{each.note}: held for release" if each in holding else each.note


def judge_scan(
    drawn: Delineated,
    signs: Signs,
    judge: Judge | None,
    volumes_mm3: Mapping[Organ, float],
    species: Species,
) -> Verdict:
    """Weigh everything that was measured of a scan.

    Parameters
    ----------
    judge : None if the bundle has none
    volumes_mm3 : of the organs on the slices that exist; 0 for an organ that is missing
    """
    quality = {} if judge is None else judge.predict(signs)
    found = [
        *_side_concerns(drawn.lie, drawn.sides),
        *_size_concerns(drawn, species, volumes_mm3),
        *_missing(volumes_mm3),
        *_torn(drawn.fold_dsc),
        *([] if judge is None else predicted_concerns(quality, judge, volumes_mm3)),
        *_cut(signs, drawn.labels.organ_of(Role.CORD)),
        *_soft_concerns(drawn, volumes_mm3),
    ]
    order = list(Light)
    ranked = sorted(found, key=lambda each: (not each.always_holds, -order.index(each.light)))
    return Verdict(tuple(ranked), quality)


_LOOK = "Look at the picture"


def _side_concerns(lie: Lie, sides: Sides) -> Iterator[Concern]:
    if lie.mirrored:
        yield Concern(
            Light.RED,
            None,
            f"mirrored:{lie.letters}",
            "mirrored image",
            "mirror image: left and right are exchanged in this export, which no turn of the "
            "animal explains. The contours fit these pixels. Release them only if the treatment "
            "is planned on this same series; otherwise export it again without mirroring "
            f"(signs: {sides.words})",
            always_holds=True,
            headline="MIRROR IMAGE",
        )
        return
    if not lie.as_in_header:
        yield Concern(
            Light.AMBER,
            None,
            f"header-disagrees:{lie.letters}",
            f"header and anatomy disagree: {lie.words}",
            f"the animal lies otherwise than the header says: {lie.words}. {_LOOK}; mend the "
            "position that the operator chose at the scanner",
        )
    if not lie.certain:
        # If the header is wrong, left and right or head and tail are exchanged in these contours.
        yield Concern(
            Light.RED,
            None,
            f"lie-unsure:{lie.probability:.2f}",
            "left and right unsure",
            f"the image hardly tells how the animal lies ({lie.probability:.2f} of 1 for what the "
            f"header says): contoured as it says. {_LOOK}; release it only if the left lung, the "
            "heart's apex and the head lie where they should",
            always_holds=True,
            headline="LEFT-RIGHT IN DOUBT",
        )
    elif not sides.sure:
        yield Concern(
            Light.RED,
            None,
            f"sides-unsure:{sides.probability:.2f}",
            "left and right unsure",
            f"left and right are in doubt ({sides.probability:.2f} of 1 that left is left; signs: "
            f"{sides.words}). {_LOOK}; release it only if the left lung and the heart's apex lie "
            "on the animal's left",
            always_holds=True,
            headline="LEFT-RIGHT IN DOUBT",
        )


def _size_concerns(
    drawn: Delineated, species: Species, volumes_mm3: Mapping[Organ, float]
) -> Iterator[Concern]:
    known_mm3 = by_role(volumes_mm3, drawn.labels.roles)
    doubt = size_doubt(species, drawn.thickness, known_mm3)
    if doubt is not None:
        yield Concern(Light.RED, None, doubt.flag, doubt.note, doubt.reason)


def _missing(volumes_mm3: Mapping[Organ, float]) -> Iterator[Concern]:
    for organ, mm3 in volumes_mm3.items():
        if mm3 == 0:
            yield Concern(
                Light.RED,
                organ,
                f"empty:{organ}",
                f"{organ} not found",
                f"{organ} was not found. {_LOOK}; release the others only if this organ is "
                "not in the field, or draw it by hand",
            )


def _torn(fold_dsc: Mapping[Organ, float]) -> Iterator[Concern]:
    for organ, dsc in fold_dsc.items():
        if dsc >= LEAST_FOLD_DSC:
            continue
        torn = dsc < HELD_FOLD_DSC
        yield Concern(
            Light.RED if torn else Light.AMBER,
            organ,
            f"folds-disagree:{organ}:{dsc:.2f}",
            "the folds disagree" if torn else "",
            f"the networks disagree about {organ} ({dsc:.2f} of 1 is alike): this scan is "
            f"unlike those that they learnt from. {_LOOK}; use it only if the contour is right",
        )


def predicted_concerns(
    quality: Mapping[Organ, Quality], judge: Judge, volumes_mm3: Mapping[Organ, float]
) -> Iterator[Concern]:
    """A concern for each organ whose predicted DSC is below one of its limits."""
    for organ, each in quality.items():
        dsc, limits = each.dsc, judge.limits[organ]
        sure = dsc.middle >= limits.amber_below and dsc.low >= LEAST_LOW_DSC
        if sure or volumes_mm3.get(organ, 0.0) == 0:
            continue
        red = dsc.middle < limits.red_below
        predicted = f"DSC {dsc.middle:.2f} ({dsc.low:.2f} to {dsc.high:.2f})"
        yield Concern(
            Light.RED if red else Light.AMBER,
            organ,
            f"predicted:{organ}:{dsc.middle:.2f}",
            f"{organ} {'may be wrong' if red else 'may be off'}: predicted {predicted}",
            f"{organ} {'may be wrong' if red else 'may be off at its edges'}: predicted "
            f"{predicted}, 95 % distance {each.hd95_mm.middle:.1f} mm. {_LOOK}; "
            + ("release it only if the contour is right, or draw it" if red else "mend it")
            + " by hand",
        )


def _cut(signs: Signs, cord: Organ | None) -> Iterator[Concern]:
    """Organs at the field's edge; the cord always goes on beyond it."""
    for organ, own in signs.organs.items():
        if organ != cord and own.get("field_edge_share", 0.0) > CUT_SHARE:
            yield Concern(
                Light.AMBER,
                organ,
                f"cut:{organ}",
                f"{organ} is cut by the field of view",
                f"the field of view cuts {organ}: only the part within it is contoured. Scan "
                "again with the whole organ in the field if the dose to all of it matters",
            )


def _soft_concerns(drawn: Delineated, volumes_mm3: Mapping[Organ, float]) -> Iterator[Concern]:
    if drawn.calibration is not None:
        yield Concern(
            Light.AMBER,
            None,
            drawn.calibration.flag,
            drawn.calibration.note,
            f"{drawn.calibration.note}. {_LOOK}; have the scanner calibrated",
        )
    asked_for_each = drawn.located is not None and drawn.located.place is not None
    if drawn.animals > 1 and not asked_for_each:
        yield Concern(
            Light.GREEN,
            None,
            f"animals:{drawn.animals}",
            "",
            f"{drawn.animals} animals lie in the field, one is contoured",
        )
    share = right_lung_share(by_role(volumes_mm3, drawn.labels.roles))
    # The right lung is the larger one in mice.
    if share and share < MIN_RIGHT_SHARE:
        yield Concern(
            Light.AMBER,
            None,
            f"right-lung-smaller:{share:.2f}",
            "",
            f"the right lung is the smaller one ({100 * share:.0f} % of both; a mouse: 59). "
            f"{_LOOK}: is a lung collapsed, or cut by the field?",
        )
    if "chest-unsure" in drawn.flags:
        yield Concern(
            Light.AMBER,
            None,
            "chest-unsure",
            "",
            f"limn found no chest at a glance and searched the whole scan. {_LOOK}",
        )
