"""What a study is made of: its animals, the presets of its systems; read from TOML."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from limn.domain.errors import ConfigWrong
from limn.lab.systems.aimos import AimosPreset
from limn.lab.systems.nnunet_plans import Preset
from limn.lab.words import AIMOS, CASCADE, FLAT, LOWRES, REFERENCE_SYSTEM
from limn.phantom.cohort import Cohort
from limn.segment.bundle.profile import PROFILE_NAMES, ProfileName
from limn.segment.importing.trained import NAME

NNUNET_SYSTEMS = (REFERENCE_SYSTEM, LOWRES, CASCADE, FLAT)
TRAINERS = ("nnunet", "short")
KEYS = {
    "": ("data", "cohort", "trainer", "profile", "systems", "bundle"),
    "data": ("source", "layout", "split"),
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Naming:
    """What a person says of the bundle that a study ends with.

    Attributes
    ----------
    not_for : what it must not be used for; "" to say nothing
    """

    name: str = "study"
    version: str = "1"
    not_for: str = ""

    def __post_init__(self) -> None:
        for key, word in (("name", self.name), ("version", self.version)):
            if not NAME.fullmatch(word):
                msg = f"{key} = {word!r}: letters, digits, '.', '_' and '-' expected"
                raise ConfigWrong(msg)


@dataclass(frozen=True, slots=True)
class StudyConfig:
    """A study before anything is done.

    Attributes
    ----------
    cohort : phantoms that are made first; None where `source` has the scans
    source : folder of scans that others made; None with a cohort
    layout : how they lie there (`limn.lab.data.folder_layout`); None for a phantom cohort
    split : which animal trains and tests; None to take or draw one
    short : AdamW, and bf16 where the CPU has it, instead of nnU-Net's own rule of learning
    profile : of limn's engine
    nnunet : presets by system, in the order in which they are trained
    aimos : None to leave it out
    naming : of the bundle; words, which a begun study may change
    """

    cohort: Cohort | None
    source: Path | None
    layout: Path | None
    split: Path | None
    short: bool
    profile: ProfileName
    nnunet: Mapping[str, Preset]
    aimos: AimosPreset | None
    naming: Naming

    @property
    def systems(self) -> tuple[str, ...]:
        """All that are trained."""
        return (*self.nnunet, *([AIMOS] if self.aimos else []))

    def digest(self) -> dict[str, Any]:
        """What a work folder belongs to; as JSON gives it back."""
        said = {
            "cohort": asdict(self.cohort) if self.cohort else None,
            "source": str(self.source.resolve()) if self.source else None,
            "layout": _said(self.layout),
            "split": _said(self.split),
            "short": self.short,
            "profile": self.profile,
            "nnunet": {name: asdict(preset) for name, preset in self.nnunet.items()},
            "aimos": asdict(self.aimos) if self.aimos else None,
        }
        found: dict[str, Any] = json.loads(json.dumps(said))
        return found


def read_study(path: Path, source: Path | None = None) -> StudyConfig:
    """A study's TOML; relative paths in it are taken from its own folder.

    Parameters
    ----------
    source : of the scans, instead of `data.source`

    Raises
    ------
    ConfigWrong
        Names the file, the key and what is expected.
    """
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path} can't be read as a study: {error}"
        raise ConfigWrong(msg) from error
    if source is not None and isinstance(said.setdefault("data", {}), dict):
        said["data"]["source"] = str(source.absolute())
    try:
        return _study(said, path.parent)
    except ConfigWrong as error:
        msg = f"{path}: {error}"
        raise ConfigWrong(msg) from error


def _study(said: Mapping[str, Any], folder: Path) -> StudyConfig:
    _known(said, KEYS[""], "")
    data = _table(said, "data")
    _known(data, KEYS["data"], "data.")
    source, layout, split = (_path(data, name, folder) for name in KEYS["data"])
    if (source is None) == ("cohort" not in said):
        msg = (
            "either data.source (or --data FOLDER) or a table [cohort] is expected, "
            f"{'neither' if source is None else 'both'} given"
        )
        raise ConfigWrong(msg)
    trainer, profile = said.get("trainer", "nnunet"), said.get("profile", "fast")
    if trainer not in TRAINERS:
        msg = f"trainer {trainer!r}: {' or '.join(TRAINERS)} expected"
        raise ConfigWrong(msg)
    if profile not in PROFILE_NAMES:
        msg = f"profile {profile!r}: one of {', '.join(PROFILE_NAMES)} expected"
        raise ConfigWrong(msg)
    systems = _table(said, "systems")
    _known(systems, (*NNUNET_SYSTEMS, AIMOS), "systems.")
    if REFERENCE_SYSTEM not in systems:
        msg = f"systems.{REFERENCE_SYSTEM} is missing; the others are held against it"
        raise ConfigWrong(msg)
    if CASCADE in systems and LOWRES not in systems:
        msg = f"systems.{CASCADE} needs systems.{LOWRES}, its first stage"
        raise ConfigWrong(msg)
    for name in systems:
        _refuse_other_axes(name, _table(systems, name, "systems."))
    return StudyConfig(
        cohort=_made(Cohort, _table(said, "cohort"), "cohort") if source is None else None,
        source=source,
        layout=layout,
        split=split,
        short=trainer == "short",
        profile=profile,
        # A cascade's second stage comes after its first.
        nnunet={
            name: _made(Preset, systems[name], f"systems.{name}")
            for name in NNUNET_SYSTEMS
            if name in systems
        },
        aimos=_made(AimosPreset, systems[AIMOS], f"systems.{AIMOS}") if AIMOS in systems else None,
        naming=_made(Naming, _table(said, "bundle"), "bundle"),
    )


def _made(kind: type[T], said: Mapping[str, Any], where: str) -> T:
    """A dataclass from a table of its fields; lists become tuples, whole numbers floats."""
    wanted = {own.name: str(own.type) for own in fields(kind)}  # type: ignore[arg-type]
    _known(said, tuple(wanted), f"{where}.")
    values = {name: tuple(own) if isinstance(own, list) else own for name, own in said.items()}
    for name, value in values.items():
        numbers = value if isinstance(value, tuple) else (value,)
        whole = "float" not in wanted[name]
        number = int if whole else (int, float)
        good = {"bool": bool, "str": str}.get(wanted[name], number)
        if not all(isinstance(n, good) and (good is bool or n is not True) for n in numbers):
            msg = f"{where}.{name} = {said[name]!r}: {wanted[name]} expected"
            raise ConfigWrong(msg)
    try:
        return kind(**values)
    except TypeError as error:
        msg = f"[{where}] {str(error).split(') ')[-1]}"
        raise ConfigWrong(msg) from error
    except ConfigWrong as error:
        msg = f"[{where}] {error}"
        raise ConfigWrong(msg) from error


def _known(said: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    if strange := [name for name in said if name not in names]:
        msg = f"{where}{strange[0]} is not known here; {', '.join(names)} are"
        raise ConfigWrong(msg)


def _refuse_other_axes(name: str, said: Mapping[str, Any]) -> None:
    """2d and AIMOS learn from slices, the others from blocks."""
    key, axes = ("size", 2) if name == AIMOS else ("patch", 2 if name == FLAT else 3)
    own = said.get(key)
    if isinstance(own, list) and len(own) != axes:
        msg = f"systems.{name}.{key} = {own}: {axes} numbers expected"
        raise ConfigWrong(msg)


def _table(said: Mapping[str, Any], name: str, where: str = "") -> Mapping[str, Any]:
    found = said.get(name, {})
    if not isinstance(found, dict):
        msg = f"{where}{name} = {found!r}: a table [{where}{name}] is expected"
        raise ConfigWrong(msg)
    return found


def _path(data: Mapping[str, Any], name: str, folder: Path) -> Path | None:
    said = data.get(name, "")
    if not isinstance(said, str):
        msg = f"data.{name} = {said!r}: a path in quotes is expected"
        raise ConfigWrong(msg)
    return folder / said if said else None


def _said(path: Path | None) -> str | None:
    """A hash of what a TOML says; comments and spaces may change."""
    if path is None:
        return None
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path} can't be read: {error}"
        raise ConfigWrong(msg) from error
    written = json.dumps(said, sort_keys=True, default=str)
    return hashlib.sha256(written.encode()).hexdigest()


def costs(flat: bool, voxels: float, features: tuple[int, ...]) -> float:
    """Multiplications of one forward pass, but for a factor; for telling the time that is left.

    Parameters
    ----------
    voxels : that pass through, at the highest stage
    """
    kernel, halved = (9, 4) if flat else (27, 8)
    return kernel * sum(voxels / float(halved**k) * n * n for k, n in enumerate(features))
