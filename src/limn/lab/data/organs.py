"""The organs of a data set: their labels, their roles, and what an observer drew as one.

The tables are those of a bundle: ``[labels]`` numbers the organs from 1, ``[roles]`` says which is
heart, cord, right and left lung. ``[joined]`` names several organs that an observer drew as one,
such as both lungs; their labels follow those of the organs.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limn.domain.errors import ConfigWrong
from limn.domain.scan import TG263_ROLES, Organ, Role, named_organ
from limn.domain.shipped import MANIFEST as BUNDLE_MANIFEST
from limn.phantom.anatomy import TRUTH_LABELS
from limn.phantom.observers import LUNGS, OBSERVER_LABELS
from limn.segment.bundle.bundle import read_roles

ORGANS = "organs.toml"
TABLES = ("labels", "roles", "joined")
# Both lungs as one, where a layout does not say otherwise.
BOTH_LUNGS = Organ(OBSERVER_LABELS[LUNGS])
# Labels are bytes.
MOST_LABELS = 255
# Tables of observers have the heart first and the cord after both lungs, as the paper's.
_COMPARED = (Role.HEART, Role.LUNG_R, Role.LUNG_L, Role.CORD)


@dataclass(frozen=True, slots=True)
class DatasetOrgans:
    """Which organ has which label and role.

    Attributes
    ----------
    organs : label, 1, 2, 3 ..., to organ
    roles : the organ of each role that the data set has
    joined : name of several organs as one to these organs

    Raises
    ------
    ValueError
        If labels are not 1, 2, 3 ..., or an organ has two names, two roles or two joined names.
    """

    organs: Mapping[int, Organ]
    roles: Mapping[Role, Organ]
    joined: Mapping[Organ, tuple[Organ, ...]]

    def __post_init__(self) -> None:
        names = set(self.organs.values())
        if not names or list(self.organs) != list(range(1, 1 + len(names))):
            msg = f"labels {dict(self.organs)}: 1, 2, 3 ... and every organ once expected"
            raise ValueError(msg)
        if len(names) + len(self.joined) > MOST_LABELS:
            msg = f"{len(names) + len(self.joined)} organs; {MOST_LABELS} at most"
            raise ValueError(msg)
        for name, parts in self.joined.items():
            if name in names or len(set(parts)) < 2 or set(parts) - names:
                msg = (
                    f"joined.{name} = {list(parts)}: two or more of {', '.join(sorted(names))} "
                    "expected, under a name that no organ has"
                )
                raise ValueError(msg)
        counts = Counter(part for parts in self.joined.values() for part in parts)
        if twice := [part for part, count in counts.items() if count > 1]:
            msg = f"joined: {twice[0]} stands under two names"
            raise ValueError(msg)

    @property
    def label_of(self) -> Mapping[str, int]:
        """Organ, and joined name, to its label."""
        labels: dict[str, int] = {organ: label for label, organ in self.organs.items()}
        first = len(labels) + 1
        return labels | {name: label for label, name in enumerate(self.joined, start=first)}

    def labels_of(self, *roles: Role) -> list[int]:
        """The labels of those roles that the data set has."""
        return [self.label_of[self.roles[role]] for role in roles if role in self.roles]

    def has(self, *roles: Role) -> bool:
        """Whether the data set has an organ for each of these roles."""
        return set(roles) <= set(self.roles)

    @property
    def structures(self) -> Mapping[str, tuple[int, ...]]:
        """Name to labels of what every observer can be compared on: joined organs count as one."""
        label_of = self.label_of
        place = {self.roles[role]: k for k, role in enumerate(_COMPARED) if role in self.roles}
        in_order = sorted(self.organs.values(), key=lambda organ: place.get(organ, len(place)))
        found: dict[str, tuple[int, ...]] = {}
        for organ in in_order:
            name = next((name for name, parts in self.joined.items() if organ in parts), None)
            if name is None:
                found[organ] = (label_of[organ],)
            elif name not in found:
                found[name] = tuple(label_of[each] for each in (*self.joined[name], name))
        return found


PHANTOM_ORGANS = DatasetOrgans(
    TRUTH_LABELS, TG263_ROLES, {BOTH_LUNGS: (TG263_ROLES[Role.LUNG_R], TG263_ROLES[Role.LUNG_L])}
)


def numbered(
    names: Sequence[Organ],
    roles: Mapping[str, Any] | None,
    joined: Mapping[str, Any] | None,
) -> DatasetOrgans:
    """Number organs: first those with a role, in the order of the roles, then the others as given.

    Parameters
    ----------
    roles, joined : tables of a layout; without them TG-263's names have their role, and both lungs
        together are `BOTH_LUNGS`
    """
    by_role = read_roles(roles, set(names))
    if joined is None and {Role.LUNG_R, Role.LUNG_L} <= set(by_role):
        names = [name for name in names if name != BOTH_LUNGS]
    first = [by_role[role] for role in Role if role in by_role]
    ordered = [*first, *(name for name in names if name not in first)]
    return _with_joined(dict(enumerate(ordered, start=1)), by_role, joined)


def read_organs(folder: Path) -> DatasetOrgans:
    """The organs of a data set; one without `ORGANS`, of an older limn, has those of a phantom.

    Raises
    ------
    ConfigWrong
        If the file can't be read or is wrong.
    """
    return organs_in(folder / ORGANS) if (folder / ORGANS).exists() else PHANTOM_ORGANS


def organs_in(path: Path) -> DatasetOrgans:
    """The organs of a TOML with a table ``[labels]``, of a bundle's folder, or of a data set's.

    Raises
    ------
    ConfigWrong
        If it can't be read, has no such table, or a table is wrong.
    """
    if path.is_dir():
        own = [path / name for name in (ORGANS, BUNDLE_MANIFEST) if (path / name).exists()]
        if not own:
            msg = f"{path} has neither {ORGANS} nor {BUNDLE_MANIFEST}: give a file with [labels]"
            raise ConfigWrong(msg)
        path = own[0]
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return organs_of_tables(table)
    except (OSError, UnicodeDecodeError, ValueError, TypeError, AttributeError, KeyError) as error:
        msg = f"{path} can't be read as organs: {error}"
        raise ConfigWrong(msg) from error


def organs_of_tables(table: Mapping[str, Any]) -> DatasetOrgans:
    """The organs of the tables `TABLES`.

    Raises
    ------
    ValueError, TypeError, AttributeError, KeyError
        If a table is wrong.
    """
    if "labels" not in table:
        msg = 'a table [labels] such as 1 = "Heart" is missing'
        raise ValueError(msg)
    named = {int(label): named_organ(name) for label, name in table["labels"].items()}
    organs = dict(sorted(named.items()))
    roles = read_roles(table.get("roles"), set(organs.values()))
    return _with_joined(organs, roles, table.get("joined"))


def as_toml(organs: DatasetOrgans) -> str:
    """The text of a file for `organs_in`."""
    lines = ["[labels]", *(f'{label} = "{organ}"' for label, organ in organs.organs.items())]
    lines += ["", "[roles]", *(f'{role} = "{organ}"' for role, organ in organs.roles.items())]
    lines += ["", "[joined]"]
    for name, parts in organs.joined.items():
        words = ", ".join(f'"{part}"' for part in parts)
        lines.append(f'"{name}" = [{words}]')
    return "\n".join(lines) + "\n"


def _with_joined(
    organs: Mapping[int, Organ], roles: Mapping[Role, Organ], table: Mapping[str, Any] | None
) -> DatasetOrgans:
    if table is not None:
        joined = {
            named_organ(name): tuple(named_organ(part) for part in parts)
            for name, parts in table.items()
        }
    else:
        lungs = tuple(roles[role] for role in (Role.LUNG_R, Role.LUNG_L) if role in roles)
        both = len(lungs) == 2 and BOTH_LUNGS not in organs.values()
        joined = {BOTH_LUNGS: lungs} if both else {}
    return DatasetOrgans(organs, roles, joined)
