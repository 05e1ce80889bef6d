"""Series contoured in this process, one after the other on one warm ensemble."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from limn.domain.files import write_durably
from limn.node.batch.find_series import FoundSeries
from limn.node.batch.notes import NOTE, Note, Notes
from limn.node.config import Config
from limn.node.contour.job import Job, Result
from limn.node.contour.site_bundle import label_of
from limn.node.contour.work.warm import warm_up
from limn.node.contour.work.worker import contour_here
from limn.node.store.journal.rows import Arrived, uids_of_others
from limn.segment.bundle.bundle import Bundle

# Deaths of the process over one series, after which the series is left out.
DEATHS = 3


def contour_series(
    found: Sequence[FoundSeries],
    notes: Notes,
    config: Config,
    bundle: Bundle,
    report: Callable[..., None],
) -> None:
    """Contour the series; ``report`` takes what is done now, and 1 when a series is through."""
    report("loading the ensemble")
    warm = warm_up(config)
    label = label_of(config, bundle)
    for series in found:
        report(series.name)
        note, arrived = notes.begin(series)
        if arrived is not None and note.begun >= DEATHS:
            reason = (
                f"limn died {note.begun} times while it ran this series; to try it once more "
                f"remove {notes.folder(series.name) / NOTE}"
            )
            notes.write(replace(note, outcome="quarantined", reason=reason))
        elif arrived is not None:
            notes.write(replace(note, begun=note.begun + 1))
            try:
                _file(contour_here(_job(arrived, config), label, warm), note, notes)
            except KeyboardInterrupt:
                # A person stopped the process: this series did not kill it.
                notes.write(note)
                raise
        report(series.name, 1)


def _job(arrived: Arrived, config: Config) -> Job:
    sop_uid, series_uid = arrived.structure_set_uids
    return Job(
        scan=0,
        animal=arrived.animal,
        paths=tuple(str(Path(arrived.folder) / name) for name in arrived.files),
        model=config.model,
        planning_system=config.planning_system,
        sop_instance_uid=sop_uid,
        series_instance_uid=series_uid,
        date=arrived.date,
        time=arrived.time,
        predecessor_uid="",
        deadline_s=config.engine.deadline_s,
        judge=config.judge,
        roi=config.roi,
        input_digest=arrived.input_digest,
        received_at=arrived.ready_at,
        delivered=False,
        others=tuple((*uids, "") for uids in uids_of_others(arrived))
        if config.model.two_animals == "each"
        else (),
    )


def _file(result: Result, note: Note, notes: Notes) -> None:
    # The note of the first animal comes last: it says that the series is done.
    for other in result.others:
        _file(other, notes.of_animal(note, other.animal_number), notes)
    if result.ended:
        notes.write(replace(note, outcome=result.ended, reason=result.reason))
        return
    folder = notes.folder(note.series)
    # The first animal's is there since its series began.
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / "RS.dcm", result.structure_set)
    write_durably(folder / "picture.png", result.picture)
    notes.write(replace(note, outcome="contoured", held=result.held, record=result.record))
