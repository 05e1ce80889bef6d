"""A model on disk: weights and a manifest that describes them, verified before use.

A bundle is a folder with ``bundle.toml`` and an nnunetv2 model folder's files. Checkpoints are
pickles, so nothing is opened before its sha256 matches the manifest.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from limn.domain.errors import BundleUnfit
from limn.domain.geometry import SpacingMm
from limn.domain.scan import TG263_ROLES, Organ, Role, named_organ
from limn.domain.shipped import MANIFEST
from limn.segment.bundle.archive import is_inside
from limn.segment.bundle.profile import PROFILE_NAMES, ProfileName
from limn.segment.bundle.species import MOUSE, Species, read_species

# The least and the largest input of convolutions, by their names in the weights.
Ranges: TypeAlias = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class CleanRule:
    """Which connected components of an organ stay.

    Attributes
    ----------
    keep : "largest" keeps one; "pieces" also keeps every other one of at least ``min_mm3``
        (a broken cord, a separate accessory lobe) within ``within_mm`` of the largest (so
        not one of an animal beside it)
    """

    keep: Literal["largest", "pieces"]
    min_mm3: float = 0.0
    within_mm: float = math.inf


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified model and everything that is needed to use it.

    Attributes
    ----------
    onlooker : file of the weights that find how an animal lies, or None
    localiser : file of the weights that find the chest, or None
    orientation : letters that the axes z, y, x of the training's arrays grow towards, before
        ``transpose_forward`` of the plans
    spacing_mm : in the same order; in a 2d bundle the first axis of the plans' order has the
        data set's median, to which nothing is resampled
    files : every file of the manifest, relative to the folder
    profile : "paper" averages probabilities and resamples before it normalises, like nnU-Net v1;
        "stock" does the same as nnunetv2; "fast" is for a region of interest
    mirror_axes : the axes 0 to 2, in the plans' order, that the training mirrored
    source : where the weights come from
    previous : the bundle whose labels a cascade's second stage takes as input; "" for all others
    sample : file of tiles with a known truth, on which int8 is compared with fp32; None if the
        bundle has none, and does not run in int8
    int8_ranges : for each fold, if int8 was found good on this processor (`engine/int8.py`); not
        of the manifest
    species : the animals that it is made for
    roles : the organ of each role that the bundle has
    colours, codes : of the organs whose ROI has its own: RGB; value, scheme and meaning
    judge : file of the trees that predict how good its contours are; None if the bundle has none
    """

    folder: Path
    name: str
    version: str
    demonstration: bool
    trained_on: str
    not_for: str
    organs: Mapping[int, Organ]
    orientation: str
    spacing_mm: SpacingMm
    expected_hu: tuple[float, float]
    configuration: str
    folds: tuple[int, ...]
    clean: Mapping[Organ, CleanRule]
    protocol: Mapping[str, str]
    onlooker: str | None
    sha256: str
    localiser: str | None = None
    files: tuple[str, ...] = ()
    profile: ProfileName = "paper"
    mirror_axes: tuple[int, ...] = ()
    source: str = ""
    previous: str = ""
    sample: str | None = None
    int8_ranges: tuple[Ranges, ...] = ()
    species: Species = MOUSE
    judge: str | None = None
    roles: Mapping[Role, Organ] = field(default_factory=dict)
    colours: Mapping[Organ, tuple[int, int, int]] = field(default_factory=dict)
    codes: Mapping[Organ, tuple[str, str, str]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name and version in one word."""
        return f"{self.name}-{self.version}"

    @property
    def within_chest(self) -> bool:
        """Whether every organ lies in the chest, where the localiser looks."""
        return set(self.organs.values()) <= set(self.roles.values())

    def checkpoint(self, fold: int) -> Path:
        """The weights of one fold."""
        return self.folder / f"fold_{fold}" / "checkpoint_final.pth"


def open_bundle(folder: Path) -> Bundle:
    """Verify a bundle's files against its manifest.

    Raises
    ------
    BundleUnfit
        If the manifest is missing or wrong, a file is missing, or its sha256 differs.
    """
    bundle, files = _parse(folder)
    needed = {"plans.json", "dataset.json"} | {
        bundle.checkpoint(fold).relative_to(folder).as_posix() for fold in bundle.folds
    }
    needed |= set(_parts(bundle))
    if unlisted := sorted(needed - set(files)):
        msg = f"bundle {folder}: {MANIFEST} lists no sha256 for {', '.join(unlisted)}"
        raise BundleUnfit(msg)
    for name, wanted in files.items():
        _verify(folder / name, wanted)
    _check_labels(bundle)
    return bundle


def _parts(bundle: Bundle) -> list[str]:
    """Files of the bundle that are no network of a fold."""
    named = (bundle.onlooker, bundle.localiser, bundle.sample, bundle.judge)
    return [name for name in named if name]


def _check_labels(bundle: Bundle) -> None:
    """Compare the manifest's labels with the training's, so that left stays left."""
    path = bundle.folder / "dataset.json"
    try:
        trained = json.loads(path.read_text(encoding="utf-8"))["labels"]
        named = {int(label): str(name) for name, label in trained.items() if int(label) > 0}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        msg = f"bundle {bundle.folder}: dataset.json is not usable: {error!r}"
        raise BundleUnfit(msg) from error
    exact = {organ.lower(): organ for organ in bundle.organs.values()}
    if set(named) != set(bundle.organs):
        msg = (
            f"bundle {bundle.folder}: {MANIFEST} names the labels {sorted(bundle.organs)}, "
            f"dataset.json {sorted(named)}"
        )
        raise BundleUnfit(msg)
    for label, name in named.items():
        if exact.get(name.lower(), bundle.organs[label]) != bundle.organs[label]:
            msg = (
                f"bundle {bundle.folder}: label {label} is {bundle.organs[label]} in {MANIFEST}, "
                f"{name} in dataset.json"
            )
            raise BundleUnfit(msg)


def glance(folder: Path) -> Bundle:
    """Read the manifest alone and verify no file: for lists, never for use.

    Raises
    ------
    BundleUnfit
        If the manifest is missing or wrong.
    """
    return _parse(folder)[0]


def write_manifest(folder: Path, manifest_head: str) -> None:
    """Seal a model folder: write the head (TOML text) and the sha256 of every file in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    lines = [f'"{path.relative_to(folder).as_posix()}" = "{sha256_of(path)}"' for path in files]
    text = manifest_head.rstrip() + "\n\n[files]\n" + "\n".join(lines) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def add_part(folder: Path, key: str, name: str) -> Bundle:
    """Name a file of the folder in a sealed bundle's manifest, and seal the bundle again."""
    head = (folder / MANIFEST).read_text(encoding="utf-8").split("\n[files]\n")[0].rstrip()
    lines = [line for line in head.splitlines() if not line.startswith(f"{key} = ")]
    # The keys of the whole come before the first table.
    first = next(k for k, line in enumerate(lines) if line.startswith("["))
    keys = "\n".join(lines[:first]).rstrip()
    tables = "\n".join(lines[first:])
    write_manifest(folder, f'{keys}\n{key} = "{name}"\n\n{tables}')
    return open_bundle(folder)


def _parse(folder: Path) -> tuple[Bundle, dict[str, str]]:
    raw = _manifest_bytes(folder)
    try:
        manifest = tomllib.loads(raw.decode())
        bundle = _read(folder, manifest, hashlib.sha256(raw).hexdigest())
        files = {str(name): str(wanted) for name, wanted in manifest["files"].items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        msg = f"bundle {folder}: {MANIFEST} is not usable: {error!r}"
        raise BundleUnfit(msg) from error
    return bundle, files


def _manifest_bytes(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError as error:
        msg = (
            f"bundle {folder}: can't read {MANIFEST}: {error.strerror}; give the folder of a bundle"
        )
        raise BundleUnfit(msg) from error


def _read(folder: Path, manifest: Mapping[str, Any], sha256: str) -> Bundle:
    spacing = manifest["spacing_mm"]
    low, high = manifest["expected_hu"]
    named = {int(label): named_organ(name) for label, name in manifest["labels"].items()}
    organs = dict(sorted(named.items()))
    rois = {Organ(str(name)): dict(roi) for name, roi in manifest.get("rois", {}).items()}
    if unknown := sorted(set(rois) - set(organs.values())):
        msg = f"rois.{unknown[0]}: no label has this name"
        raise ValueError(msg)
    bundle = Bundle(
        folder=folder,
        name=str(manifest["name"]),
        version=str(manifest["version"]),
        demonstration=bool(manifest["demonstration"]),
        trained_on=str(manifest["trained_on"]),
        not_for=str(manifest["not_for"]),
        organs=organs,
        orientation=str(manifest["orientation"]),
        spacing_mm=SpacingMm(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        expected_hu=(float(low), float(high)),
        configuration=str(manifest["configuration"]),
        folds=tuple(int(fold) for fold in manifest["folds"]),
        clean={Organ(name): CleanRule(**rule) for name, rule in manifest["clean"].items()},
        protocol={str(key): str(value) for key, value in manifest["protocol"].items()},
        onlooker=str(manifest["onlooker"]) if "onlooker" in manifest else None,
        sha256=sha256,
        localiser=str(manifest["localiser"]) if "localiser" in manifest else None,
        files=tuple(sorted(str(name) for name in manifest["files"])),
        profile=manifest.get("profile", "paper"),
        mirror_axes=tuple(int(axis) for axis in manifest.get("mirror_axes", ())),
        source=str(manifest.get("source", "")),
        previous=str(manifest.get("previous", "")),
        sample=str(manifest["sample"]) if "sample" in manifest else None,
        species=read_species(manifest.get("animal")),
        judge=str(manifest["judge"]) if "judge" in manifest else None,
        roles=read_roles(manifest.get("roles"), set(organs.values())),
        colours={organ: _colour(roi) for organ, roi in rois.items() if "colour" in roi},
        codes={organ: _code(roi) for organ, roi in rois.items() if "code" in roi},
    )
    _check(bundle)
    return bundle


def read_roles(table: Mapping[str, Any] | None, organs: Set[Organ]) -> Mapping[Role, Organ]:
    """The table ``[roles]``; without it organs with TG-263's names have their role."""
    if table is None:
        return {role: organ for role, organ in TG263_ROLES.items() if organ in organs}
    roles = {Role(role): Organ(str(organ)) for role, organ in table.items()}
    for role, organ in roles.items():
        if organ not in organs:
            msg = f"roles.{role} is {organ!r}, which no label has"
            raise ValueError(msg)
    if len(set(roles.values())) < len(roles):
        raise ValueError("roles gives one organ two roles")
    return roles


def _colour(roi: Mapping[str, Any]) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in roi["colour"])
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        msg = f"colour {roi['colour']}, three numbers from 0 to 255 expected"
        raise ValueError(msg)
    return red, green, blue


def _code(roi: Mapping[str, Any]) -> tuple[str, str, str]:
    value, scheme, meaning = (str(part) for part in roi["code"])
    return value, scheme, meaning


def _check(bundle: Bundle) -> None:
    """Refuse values that would fail in the middle of a scan."""
    letters = bundle.orientation
    if len(letters) != 3 or any(len(set(letters) & set(pair)) != 1 for pair in ("SI", "PA", "LR")):
        msg = f"orientation {letters!r}, three letters such as 'SPL' expected"
        raise ValueError(msg)
    if not all(0 < mm < math.inf for mm in bundle.spacing_mm.zyx):
        msg = f"spacing_mm {bundle.spacing_mm.zyx} is not positive"
        raise ValueError(msg)
    low, high = bundle.expected_hu
    if not -math.inf < low < high < math.inf:
        msg = f"expected_hu {[low, high]}, two numbers, the smaller first, expected"
        raise ValueError(msg)
    if sorted(bundle.organs) != list(range(1, 1 + len(set(bundle.organs.values())))):
        given = dict(bundle.organs)
        msg = f"labels {given}, 1, 2, 3 ... and every organ once expected"
        raise ValueError(msg)
    if bundle.profile not in PROFILE_NAMES:
        msg = f"profile {bundle.profile!r}, one of {', '.join(PROFILE_NAMES)} expected"
        raise ValueError(msg)
    if set(bundle.mirror_axes) - {0, 1, 2}:
        msg = f"mirror_axes {list(bundle.mirror_axes)}, some of 0, 1, 2 expected"
        raise ValueError(msg)
    if outside := [name for name in bundle.files if not is_inside(name)]:
        msg = f"files lists {outside[0]!r}, which is not inside the bundle"
        raise ValueError(msg)
    if not bundle.folds:
        raise ValueError("folds is empty")
    for organ in bundle.organs.values():
        if organ not in bundle.clean:
            msg = f"clean.{organ} is missing"
            raise ValueError(msg)
    for organ, rule in bundle.clean.items():
        if rule.keep not in ("largest", "pieces"):
            msg = f"clean.{organ} keep {rule.keep!r}, 'largest' or 'pieces' expected"
            raise ValueError(msg)


def _verify(path: Path, wanted: str) -> None:
    if not path.is_file():
        msg = f"bundle file {path} is missing; install the bundle again"
        raise BundleUnfit(msg)
    try:
        found = sha256_of(path)
    except OSError as error:
        msg = f"bundle file {path}: {error.strerror}; let the account that runs limn read it"
        raise BundleUnfit(msg) from error
    if found != wanted:
        msg = (
            f"bundle file {path} has sha256 {found[:12]}…, {wanted[:12]}… expected; not opened, "
            "install the bundle again"
        )
        raise BundleUnfit(msg)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
