"""What a commissioning has done so far, on disk: a killed run goes on where it stopped.

A run is a folder: ``run.json`` says of what it is, ``steps/NAME.json`` what a step gave. A step
with such a file is not sent again, unless a person names it: then the file goes to
``steps/before``. ``report.json`` ends the run.
"""

from __future__ import annotations

import json
import platform
import secrets
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from limn.commission.measuring import MeasuredOrgan
from limn.commission.tolerances import Tolerances
from limn.domain.errors import ConfigWrong
from limn.domain.files import write_durably
from limn.domain.folders import writable

RUN, REPORT, PAGE, STEPS = "run.json", "report.json", "report.html", "steps"
# Below STEPS: what a step gave before it was sent again.
BEFORE = "before"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIdentity:
    """Of what a run is; a run goes on only with the same."""

    limn: str
    bundle: str
    bundle_sha256: str
    config: str
    config_sha256: str
    plan: str
    to: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What became of one step.

    Attributes
    ----------
    times : seconds of the scan log, by their columns; empty if the step was interrupted
    faults : sentences on what is out of tolerance; none if it passed
    back : of what a planning system returned, by its name
    """

    name: str
    series_instance_uid: str
    outcome: str
    scan: str
    light: str
    flags: str
    reason: str
    sent: int
    taken: int
    times: dict[str, float]
    device: str
    organs: tuple[MeasuredOrgan, ...]
    voxel_mm: float
    faults: tuple[str, ...]
    notes: tuple[str, ...] = ()
    back: dict[str, tuple[MeasuredOrgan, ...]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing is out of tolerance."""
        return not self.faults


@dataclass(frozen=True, slots=True)
class CommissioningRun:
    """One run on disk."""

    folder: Path
    occasion: str
    begun_utc: str
    identity: RunIdentity
    host: str

    @property
    def received(self) -> Path:
        """The structure sets that the double took."""
        return self.folder / "received"

    @property
    def answers(self) -> Path:
        """What a person answered."""
        return self.folder / "answers.json"

    def phantom(self, name: str) -> Path:
        """Where a step's phantom lies."""
        return self.folder / "phantoms" / name

    def picture(self, name: str) -> Path:
        """The node's picture of a step's scan."""
        return self.folder / STEPS / f"{name}.png"

    def mark_sent(self, name: str) -> bool:
        """Note that a step is about to be sent; true if it was noted before, by a killed run."""
        mark = self.folder / STEPS / f"{name}.sent"
        was = mark.exists()
        write_durably(mark, b"")
        return was

    def write(self, result: StepResult) -> None:
        """Note what a step gave, durably."""
        write_durably(self._result(result.name), json.dumps(asdict(result), indent=1).encode())

    def set_result_aside(self, name: str) -> None:
        """Keep what a step gave, under a number, so that it is sent again as another phantom."""
        kept = self._result_before(name, len(self.results_before(name)) + 1)
        kept.parent.mkdir(exist_ok=True)
        (self.folder / STEPS / f"{name}.sent").unlink(missing_ok=True)
        if self.picture(name).exists():
            self.picture(name).replace(kept.with_suffix(".png"))
        self._result(name).replace(kept)

    def results_before(self, name: str) -> list[StepResult]:
        """What a step gave before it was sent again, the first first."""
        found: list[StepResult] = []
        while (path := self._result_before(name, len(found) + 1)).exists():
            found.append(result_from(json.loads(path.read_text(encoding="utf-8"))))
        return found

    def _result_before(self, name: str, number: int) -> Path:
        return self.folder / STEPS / BEFORE / f"{name}-{number}.json"

    def occasion_of(self, name: str) -> str:
        """What the UIDs of a step's phantom are made of; other ones each time that it is sent."""
        number = len(self.results_before(name))
        return f"{self.occasion}-{number + 1}" if number else self.occasion

    def set_report_aside(self) -> None:
        """Keep a report that is about to be written anew, under a number of its own."""
        number = len(self.earlier_reports) + 1
        for name in (PAGE, REPORT):
            path = self.folder / name
            if path.exists():
                path.rename(path.with_stem(f"{path.stem}-{number}"))

    @property
    def earlier_reports(self) -> list[str]:
        """Pages that were written before the one that holds."""
        return sorted(path.name for path in self.folder.glob("report-*.html"))

    def _result(self, name: str) -> Path:
        return self.folder / STEPS / f"{name}.json"

    def results(self) -> dict[str, StepResult]:
        """What the steps that are done gave, by their names."""
        found = {}
        for path in sorted((self.folder / STEPS).glob("*.json")):
            result = result_from(json.loads(path.read_text(encoding="utf-8")))
            found[result.name] = result
        return found


def result_from(values: dict[str, Any]) -> StepResult:
    """A step's result as it was written."""
    organs = _organs(values["organs"])
    back = {name: _organs(found) for name, found in values["back"].items()}
    lists = {name: tuple(values[name]) for name in ("faults", "notes")}
    return StepResult(**{**values, **lists, "organs": organs, "back": back})


def _organs(found: Sequence[dict[str, Any]]) -> tuple[MeasuredOrgan, ...]:
    return tuple(
        MeasuredOrgan(
            **{**each, "offset_xyz_mm": each["offset_xyz_mm"] and tuple(each["offset_xyz_mm"])}
        )
        for each in found
    )


def run_in(out: Path, identity: RunIdentity) -> tuple[CommissioningRun, bool]:
    """The unfinished run of this identity, or a new one; and whether it goes on.

    Raises
    ------
    ConfigWrong
        If the folder can't be written, or holds something that is no commissioning.
    """
    writable(out)
    runs = _runs(out)
    if not runs and any(each for each in out.iterdir() if not each.name.startswith(".")):
        msg = f"{out} holds something other than a commissioning; give another folder with -o"
        raise ConfigWrong(msg)
    for run in reversed(runs):
        if run.identity == identity and not (run.folder / REPORT).exists():
            return run, True
    now = datetime.now(UTC)
    folder = out / f"run-{now:%Y%m%d-%H%M%S}"
    run = CommissioningRun(
        folder,
        occasion=f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}",
        begun_utc=now.isoformat(timespec="seconds"),
        identity=identity,
        host=f"{platform.node()}, {platform.system()} {platform.release()}, Python "
        f"{platform.python_version()}",
    )
    (folder / STEPS).mkdir(parents=True)
    values = {
        "occasion": run.occasion,
        "begun_utc": run.begun_utc,
        "identity": asdict(identity),
        "host": run.host,
    }
    write_durably(folder / RUN, json.dumps(values, indent=1).encode())
    return run, False


def run_to_amend(
    out: Path, identity: RunIdentity, tolerances: Tolerances, option: str
) -> CommissioningRun:
    """The newest run of this identity, whose report is written anew.

    Parameters
    ----------
    option : of the command, by which a person asks for it

    Raises
    ------
    ConfigWrong
        If there is none with a report, or its steps were measured by other tolerances.
    """
    writable(out)
    for run in reversed(_runs(out)):
        path = run.folder / REPORT
        if run.identity != identity:
            continue
        if not path.exists():
            msg = (
                f"{run.folder} has no report yet; the same command without {option} goes on with "
                "this run"
            )
            raise ConfigWrong(msg)
        if json.loads(path.read_text(encoding="utf-8"))["tolerances"] != asdict(tolerances):
            msg = (
                f"{run.folder}: its steps were measured by other tolerances; give those, or send "
                f"the phantoms again, without {option}"
            )
            raise ConfigWrong(msg)
        return run
    msg = (
        f"{option}: {out} has no report of this limn, bundle, config, --to and --only; without "
        f"{option} the phantoms are sent"
    )
    raise ConfigWrong(msg)


def _runs(out: Path) -> list[CommissioningRun]:
    """Every run of the folder, the oldest first."""
    found = []
    for path in sorted(out.glob(f"run-*/{RUN}")):
        values = json.loads(path.read_text(encoding="utf-8"))
        given = values["identity"]
        identity = RunIdentity(**{**given, "to": tuple(given["to"])})
        found.append(
            CommissioningRun(
                path.parent, values["occasion"], values["begun_utc"], identity, values["host"]
            )
        )
    return found


def last_report(out: Path, but: Path, steps: Collection[str]) -> dict[str, Any] | None:
    """The newest report of a run before this one; None if there is none.

    Parameters
    ----------
    steps : names; a report with all of them goes before a newer one that lacks some, so that a
        whole run is not compared with a few phantoms of last month
    """
    paths = [path for path in sorted(out.glob(f"run-*/{REPORT}")) if path.parent.name < but.name]
    found: list[dict[str, Any]] = [
        json.loads(path.read_text(encoding="utf-8")) for path in reversed(paths)
    ]
    whole = (each for each in found if set(steps) <= {step["name"] for step in each["steps"]})
    return next(whole, next(iter(found), None))


def sha256_of(path: Path) -> str:
    """Of a small file."""
    return sha256(path.read_bytes()).hexdigest()
