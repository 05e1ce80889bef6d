"""Writes the new bundle: weights, plans, known answers, and a manifest that says what it is."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from limn.domain.files import new_folder
from limn.domain.scan import TG263_ROLES, Organ
from limn.lab.adapt.site_scans import SiteData
from limn.lab.adapt.start import Start
from limn.lab.adapt.verdict import Advice, OrganChange, Recommendation
from limn.lab.train.nnunet_folder import CLEAN, LARGEST, PROTOCOL
from limn.phantom.anatomy import WHOLE_LABELS
from limn.phantom.chest_tiles import chest_tiles
from limn.segment.bundle.bundle import Bundle, CleanRule, open_bundle, write_manifest
from limn.segment.bundle.plans_json import dataset
from limn.segment.bundle.species import MOUSE
from limn.segment.engine.weights import build, fill, save_fold
from limn.segment.importing import known_answers
from limn.segment.importing.sampled import sampled

NOT_JUDGED = """\
# It has no judge: that of {old} learnt how the old networks err, and would give wrong lights.
# limn lab judge BUNDLE DATASET teaches one to this bundle."""


@dataclass(frozen=True, slots=True)
class AdaptStatement:
    """What the manifest says of an adaptation.

    Attributes
    ----------
    phantoms : how many taught it besides
    """

    name: str
    version: str
    phantoms: int


def write_bundle(
    folder: Path,
    start: Start,
    site: SiteData,
    weights: Mapping[int, Path],
    statement: AdaptStatement,
) -> Bundle:
    """Write the bundle into a folder that does not exist yet.

    It stays a demonstration until `note_result` has seen its scores.

    Parameters
    ----------
    weights : the file of each fold's weights
    """
    old = start.bundle
    with new_folder(folder) as part:
        shutil.copyfile(old.folder / "plans.json", part / "plans.json")
        described = json.loads((old.folder / "dataset.json").read_text(encoding="utf-8"))
        described |= dataset(start.organs, len(site.teaching))
        (part / "dataset.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
        for name in (old.onlooker, old.localiser):
            if name:
                shutil.copyfile(old.folder / name, part / name)
        networks = _saved(part, start, weights)
        known_answers.record(part, start.plan.architecture, 1, networks)
        write_manifest(part, head(start, site, statement, demonstration=True))
        # The truth of the sample's phantoms, by the new labels; no scan of the site goes in.
        if old.sample:
            sampled(part, chest_tiles)
    return open_bundle(folder)


def _saved(folder: Path, start: Start, weights: Mapping[int, Path]) -> Iterator[nn.Module]:
    """Save every fold, in the precision of the old bundle, and yield its network."""
    for fold, path in weights.items():
        old = torch.load(start.bundle.checkpoint(fold), map_location="cpu", weights_only=True)
        kinds = {tensor.dtype for tensor in old["network_weights"].values()}
        learnt = torch.load(path, map_location="cpu", weights_only=True)
        if torch.float16 in kinds:
            learnt = {name: tensor.half() for name, tensor in learnt.items()}
        save_fold(
            folder / f"fold_{fold}" / "checkpoint_final.pth", learnt, start.bundle.configuration
        )
        network = build(start.plan.architecture, 1, 1 + len(start.organs))
        yield fill(network, {name: own.float() for name, own in learnt.items()}, path)


def head(start: Start, site: SiteData, statement: AdaptStatement, *, demonstration: bool) -> str:
    """The manifest without its list of files."""
    old = start.bundle
    lines = [
        "# A limn bundle. Every file below [files] is verified before anything is opened.",
        f"# Made by limn lab adapt from {old.label}.",
        *([NOT_JUDGED.format(old=old.label)] if old.judge else []),
        f"name = {_toml(statement.name)}",
        f"version = {_toml(statement.version)}",
        f"demonstration = {str(demonstration).lower()}",
        f"trained_on = {_toml(_trained_on(start, site, statement))}",
        f"not_for = {_toml(_not_for(site))}",
        f"source = {_toml(f'limn lab adapt, from {old.label} sha256 {old.sha256}')}",
        f"configuration = {_toml(old.configuration)}",
        f"folds = {list(old.folds)}",
        f"profile = {_toml(old.profile)}",
        "# Left is left: the adaptation mirrored nothing.",
        "mirror_axes = []",
        *([f"onlooker = {_toml(old.onlooker)}"] if old.onlooker else []),
        *([f"localiser = {_toml(old.localiser)}"] if old.localiser else []),
        f"orientation = {_toml(old.orientation)}",
        f"spacing_mm = {[float(mm) for mm in old.spacing_mm.zyx]}",
        f"expected_hu = {[float(hu) for hu in old.expected_hu]}",
        "",
        "[labels]",
        *(f"{label} = {_toml(organ)}" for label, organ in start.organs.items()),
        "",
        "[roles]",
        *(f"{role} = {_toml(organ)}" for role, organ in old.roles.items()),
        *_new_roles(start),
    ]
    for organ in start.organs.values():
        lines += ["", f"[clean.{_toml(organ)}]", *_clean(old, organ)]
    lines += ["", "[protocol]"]
    lines += [
        f"{_toml(organ)} = {_toml(_protocol(old, site, organ))}" for organ in start.organs.values()
    ]
    lines += list(_rois(old)) + list(_animal(old))
    return "\n".join(lines)


def note_result(
    folder: Path,
    start: Start,
    site: SiteData,
    statement: AdaptStatement,
    found: Sequence[OrganChange],
    advice: Recommendation,
) -> None:
    """Write into the manifest what was measured, and seal the bundle again.

    A bundle of animals that the rule recommends is no demonstration any more (D-267).
    """
    learnt_from_animals = not any(scan.phantom for scan in site.scans)
    demonstration = not (learnt_from_animals and advice.advice is Advice.USE)
    text = head(start, site, statement, demonstration=demonstration)
    if (folder / "sample.npz").exists():
        keys, tables = text.split("\n\n[labels]", 1)
        text = f'{keys}\nsample = "sample.npz"\n\n[labels]{tables}'
    lines = ["", "", f"# Measured by limn lab adapt. {advice.sentence}"]
    for group in dict.fromkeys(change.group for change in found):
        lines += ["", f"[measured.{_toml(group)}]"]
        for own in found:
            if own.group == group:
                before = "" if own.before is None else f"before = {own.before:.3f}, "
                figures = f"animals = {own.animals}, {before}dsc = {own.after:.3f}"
                lines.append(f"{_toml(own.organ)} = {{ {figures} }}")
    write_manifest(folder, text + "\n".join(lines))


def _trained_on(start: Start, site: SiteData, statement: AdaptStatement) -> str:
    animals = len(site.animals(site.teaching))
    painted = any(scan.phantom for scan in site.teaching)
    kind = "digital phantom mice" if painted else "animals of one site"
    return (
        f"{len(site.teaching)} scans of {animals} {kind} ({site.folder.resolve().name}: "
        f"{', '.join(site.organs)}) and {statement.phantoms} digital phantom mice, on from "
        f"{start.bundle.label}: {start.bundle.trained_on}"
    )


def _not_for(site: SiteData) -> str:
    if any(scan.phantom for scan in site.teaching):
        return "not for animals: it has never seen one"
    animals = len(site.animals(site.teaching))
    return (
        f"not for animals of another strain, scanner, position or contouring protocol than the "
        f"{animals} that it learnt from; not before it is commissioned at its site"
    )


def _new_roles(start: Start) -> list[str]:
    """Roles of new organs with TG-263's names, where the old bundle has none."""
    return [
        f"{role} = {_toml(organ)}"
        for role, organ in TG263_ROLES.items()
        if organ in start.new_organs and role not in start.bundle.roles
    ]


def _clean(old: Bundle, organ: Organ) -> Sequence[str]:
    rule = old.clean.get(organ)
    if rule is None:
        label = next((label for label, own in WHOLE_LABELS.items() if own == organ), None)
        return CLEAN.get(label, LARGEST) if label is not None else LARGEST
    return _rule(rule)


def _rule(rule: CleanRule) -> list[str]:
    lines = [f"keep = {_toml(rule.keep)}"]
    if rule.keep == "pieces":
        lines.append(f"min_mm3 = {rule.min_mm3}")
        lines += [f"within_mm = {rule.within_mm}"] if math.isfinite(rule.within_mm) else []
    return lines


def _protocol(old: Bundle, site: SiteData, organ: Organ) -> str:
    if organ in site.organs:
        return f"as the site of {site.folder.resolve().name} contours it"
    label = next((label for label, own in WHOLE_LABELS.items() if own == organ), None)
    return old.protocol.get(organ) or (PROTOCOL[label] if label is not None else "not stated")


def _rois(old: Bundle) -> Iterator[str]:
    for organ in old.organs.values():
        if organ in old.colours or organ in old.codes:
            yield from ("", f"[rois.{_toml(organ)}]")
        if organ in old.colours:
            yield f"colour = {list(old.colours[organ])}"
        if organ in old.codes:
            yield f"code = {json.dumps(list(old.codes[organ]))}"


def _animal(old: Bundle) -> Iterator[str]:
    own = old.species
    if own != MOUSE:
        yield from ("", "[animal]", f"species = {_toml(own.name)}")
        for key in ("thickness_mm", "usual_thickness_mm", "heart_mm3", "lungs_mm3"):
            yield f"{key} = {[float(value) for value in getattr(own, key)]}"


def _toml(text: str) -> str:
    """A TOML basic string; below U+10000 the escapes of JSON are those of TOML."""
    return json.dumps(str(text), ensure_ascii=False)
