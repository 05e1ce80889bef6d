"""What differs between two reports of one site, for a physicist after an upgrade."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Smaller changes are no change: the CSV's own rounding, and another summation order.
SAME_MM3, SAME_MM, SAME_SHARE = 0.5, 0.05, 0.10
# So many phantoms that a run leaves out are named; of more the first.
MOST_NAMED = 5
IDENTITY = {
    "limn": "limn",
    "bundle": "bundle",
    "bundle_sha256": "sha256 of the bundle",
    "config_sha256": "sha256 of the config",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it was."""

    what: str
    before: str
    now: str


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """From an earlier report to this one, both as their JSON has them."""
    found = [
        Difference(words, str(old), str(new))
        for name, words in IDENTITY.items()
        if (old := before["run"]["identity"][name]) != (new := now["run"]["identity"][name])
    ]
    for name, words in (
        ("host", "host"),
        ("processor", "processor"),
        ("contoured_on", "contoured on"),
    ):
        if before["run"][name] != now["run"][name]:
            found.append(Difference(words, before["run"][name], now["run"][name]))
    found += _times(before["times"], now["times"])
    if before["tolerances"] != now["tolerances"]:
        found += [
            Difference(f"tolerance {name}", f"{before['tolerances'].get(name)}", f"{value}")
            for name, value in now["tolerances"].items()
            if before["tolerances"].get(name) != value
        ]
    earlier = {each["name"]: each for each in before["steps"]}
    for step in now["steps"]:
        if step["name"] in earlier:
            found += _step(earlier[step["name"]], step)
    missing = sorted(set(earlier) - {each["name"] for each in now["steps"]})
    if missing:
        # A monthly run of a few would list all others.
        words = ", ".join(missing[:MOST_NAMED]) + ", ..." * (len(missing) > MOST_NAMED)
        found.append(Difference(f"phantoms not sent this time: {len(missing)}", words, ""))
    return found


def _times(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    old, new = before.get("median_s"), now.get("median_s")
    if not old or not new or abs(new - old) <= SAME_SHARE * old:
        return []
    return [
        Difference(
            f"median from door to door ({100.0 * (new - old) / old:+.0f} %)",
            f"{old:.1f} s",
            f"{new:.1f} s",
        )
    ]


def _step(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    found = [
        Difference(f"{now['name']}: {words}", str(before[name]), str(now[name]))
        for name, words in (("word", "verdict"), ("outcome", "outcome"), ("light", "light"))
        if before[name] != now[name]
    ]
    earlier = {each["role"]: each for each in before["organs"]}
    for organ in now["organs"]:
        old = earlier.get(organ["role"])
        if old is None:
            continue
        what = f"{now['name']}: {organ['roi']}"
        if abs(organ["volume_mm3"] - old["volume_mm3"]) > SAME_MM3:
            found.append(
                Difference(
                    f"{what}, volume",
                    f"{old['volume_mm3']:.1f} mm3",
                    f"{organ['volume_mm3']:.1f} mm3",
                )
            )
        found += _moved(what, old["offset_xyz_mm"], organ["offset_xyz_mm"])
    return found


def _moved(what: str, old: list[float] | None, new: list[float] | None) -> list[Difference]:
    if old is None or new is None:
        return []
    far = max(abs(a - b) for a, b in zip(old, new, strict=True))
    if far <= SAME_MM:
        return []
    shown = [", ".join(f"{mm:+.2f}" for mm in each) for each in (old, new)]
    return [Difference(f"{what}, middle against the truth, x y z mm", *shown)]
