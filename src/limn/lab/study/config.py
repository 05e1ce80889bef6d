"""A study's configuration: its animals and the presets of its systems, read from TOML."""

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
    """Names that a person gives to the bundle of a study.

    Attributes
    ----------
    not_for : what the bundle must not be used for; "" for no statement
    """

    name: str = "study"
    version: str = "1"
    not_for: str = ""

    def __post_init__(self) -> None:
        for key, value in (("name", self.name), ("version", self.version)):
            if not NAME.fullmatch(value):
                msg = f"{key} = {value!r}: letters, digits, '.', '_' and '-' expected"
                raise ConfigWrong(msg)


@dataclass(frozen=True, slots=True)
class StudyConfig:
    """All settings of a study.

    Attributes
    ----------
    cohort : phantoms to make; None if `source` has the scans
    source : folder of scans from elsewhere; None with a cohort
    layout : TOML of their places (`limn.lab.data.folder_layout`); None for a phantom cohort
    split : TOML of training and test animals; None to use the cohort's or draw one
    short : train by AdamW, with bf16 if the CPU has it, instead of nnU-Net's own trainer
    profile : of limn's engine
    nnunet : presets by system, in the order of training
    aimos : None to leave it out
    naming : of the bundle; it may change after the study has started
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
        """The systems that are trained."""
        return (*self.nnunet, *([AIMOS] if self.aimos else []))

    def digest(self) -> dict[str, Any]:
        """The settings to which a work folder belongs, in JSON's types."""
        settings = {
            "cohort": asdict(self.cohort) if self.cohort else None,
            "source": str(self.source.resolve()) if self.source else None,
            "layout": _hash(self.layout),
            "split": _hash(self.split),
            "short": self.short,
            "profile": self.profile,
            "nnunet": {name: asdict(preset) for name, preset in self.nnunet.items()},
            "aimos": asdict(self.aimos) if self.aimos else None,
        }
        from_json: dict[str, Any] = json.loads(json.dumps(settings))
        return from_json


def read_study(path: Path, source: Path | None = None) -> StudyConfig:
    """Read a study's TOML; its relative paths start at its own folder.

    Parameters
    ----------
    source : folder of the scans, instead of `data.source`

    Raises
    ------
    ConfigWrong
        Names the file, the key and what is expected.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path} can't be read as a study: {error}"
        raise ConfigWrong(msg) from error
    if source is not None and isinstance(table.setdefault("data", {}), dict):
        table["data"]["source"] = str(source.absolute())
    try:
        return _study(table, path.parent)
    except ConfigWrong as error:
        msg = f"{path}: {error}"
        raise ConfigWrong(msg) from error


def _study(table: Mapping[str, Any], folder: Path) -> StudyConfig:
    _refuse_unknown(table, KEYS[""], "")
    data = _table(table, "data")
    _refuse_unknown(data, KEYS["data"], "data.")
    source, layout, split = (_path(data, name, folder) for name in KEYS["data"])
    if (source is None) == ("cohort" not in table):
        msg = (
            "either data.source (or --data FOLDER) or a table [cohort] is expected, "
            f"{'neither' if source is None else 'both'} given"
        )
        raise ConfigWrong(msg)
    trainer, profile = table.get("trainer", "nnunet"), table.get("profile", "fast")
    if trainer not in TRAINERS:
        msg = f"trainer {trainer!r}: {' or '.join(TRAINERS)} expected"
        raise ConfigWrong(msg)
    if profile not in PROFILE_NAMES:
        msg = f"profile {profile!r}: one of {', '.join(PROFILE_NAMES)} expected"
        raise ConfigWrong(msg)
    systems = _table(table, "systems")
    _refuse_unknown(systems, (*NNUNET_SYSTEMS, AIMOS), "systems.")
    if REFERENCE_SYSTEM not in systems:
        msg = f"systems.{REFERENCE_SYSTEM} is missing; the other systems are compared with it"
        raise ConfigWrong(msg)
    if CASCADE in systems and LOWRES not in systems:
        msg = f"systems.{CASCADE} needs systems.{LOWRES}, its first stage"
        raise ConfigWrong(msg)
    for name in systems:
        _refuse_other_axes(name, _table(systems, name, "systems."))
    return StudyConfig(
        cohort=_make(Cohort, _table(table, "cohort"), "cohort") if source is None else None,
        source=source,
        layout=layout,
        split=split,
        short=trainer == "short",
        profile=profile,
        # The order of NNUNET_SYSTEMS puts a cascade's first stage before its second.
        nnunet={
            name: _make(Preset, systems[name], f"systems.{name}")
            for name in NNUNET_SYSTEMS
            if name in systems
        },
        aimos=_make(AimosPreset, systems[AIMOS], f"systems.{AIMOS}") if AIMOS in systems else None,
        naming=_make(Naming, _table(table, "bundle"), "bundle"),
    )


def _make(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Make a dataclass from a table of its fields; lists become tuples."""
    wanted = {own.name: str(own.type) for own in fields(kind)}  # type: ignore[arg-type]
    _refuse_unknown(table, tuple(wanted), f"{where}.")
    values = {name: tuple(own) if isinstance(own, list) else own for name, own in table.items()}
    for name, value in values.items():
        numbers = value if isinstance(value, tuple) else (value,)
        whole = "float" not in wanted[name]
        number = int if whole else (int, float)
        good = {"bool": bool, "str": str}.get(wanted[name], number)
        if not all(isinstance(n, good) and (good is bool or n is not True) for n in numbers):
            msg = f"{where}.{name} = {table[name]!r}: {wanted[name]} expected"
            raise ConfigWrong(msg)
    try:
        return kind(**values)
    except TypeError as error:
        msg = f"[{where}] {str(error).split(') ')[-1]}"
        raise ConfigWrong(msg) from error
    except ConfigWrong as error:
        msg = f"[{where}] {error}"
        raise ConfigWrong(msg) from error


def _refuse_unknown(table: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    if strange := [name for name in table if name not in names]:
        msg = f"{where}{strange[0]} is not known here; {', '.join(names)} are"
        raise ConfigWrong(msg)


def _refuse_other_axes(name: str, table: Mapping[str, Any]) -> None:
    """Refuse a wrong number of axes: 2d and AIMOS learn from slices, the others from blocks."""
    key, axes = ("size", 2) if name == AIMOS else ("patch", 2 if name == FLAT else 3)
    own = table.get(key)
    if isinstance(own, list) and len(own) != axes:
        msg = f"systems.{name}.{key} = {own}: {axes} numbers expected"
        raise ConfigWrong(msg)


def _table(table: Mapping[str, Any], name: str, where: str = "") -> Mapping[str, Any]:
    found = table.get(name, {})
    if not isinstance(found, dict):
        msg = f"{where}{name} = {found!r}: a table [{where}{name}] is expected"
        raise ConfigWrong(msg)
    return found


def _path(data: Mapping[str, Any], name: str, folder: Path) -> Path | None:
    path = data.get(name, "")
    if not isinstance(path, str):
        msg = f"data.{name} = {path!r}: a path in quotes is expected"
        raise ConfigWrong(msg)
    return folder / path if path else None


def _hash(path: Path | None) -> str | None:
    """A hash of the values in a TOML file; comments and spaces don't matter."""
    if path is None:
        return None
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path} can't be read: {error}"
        raise ConfigWrong(msg) from error
    written = json.dumps(table, sort_keys=True, default=str)
    return hashlib.sha256(written.encode()).hexdigest()


def costs(flat: bool, voxels: float, features: tuple[int, ...]) -> float:
    """Multiplications of one forward pass, up to a factor; to estimate the time that is left.

    Parameters
    ----------
    voxels : of the input, at the highest stage
    """
    kernel, halved = (9, 4) if flat else (27, 8)
    return kernel * sum(voxels / float(halved**k) * n * n for k, n in enumerate(features))
