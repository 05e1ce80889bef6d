"""Several animals in one field: a scan, a structure set and a picture for each."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pydicom.dataset import Dataset

from limn.dicom.rtstruct import Identity
from limn.dicom.series import Instance
from limn.domain.errors import RefusedSeries
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import MOST_ANIMALS, Labels
from limn.domain.timing import Stopwatch
from limn.node.config import Model
from limn.node.contour import pipeline
from limn.node.contour.animal_names import name_of
from limn.node.contour.flights import JobInFlight
from limn.node.contour.job import Result
from limn.node.contour.work import contour_job
from limn.node.contour.work.progress import Progress
from limn.node.store.journal.rows import uids_of_others
from limn.node.store.journal.schema import COHORT
from limn.segment.draw.animals.located import Place
from tests.conftest import BUNDLE
from tests.node.contour.test_results import Desk, product
from tests.support.node.parts import arrived

MM = SpacingMm(0.3, 0.3, 0.3)


@pytest.fixture
def desk(tmp_path):
    """A dispatcher of a site that wants each animal."""
    made = Desk(tmp_path)
    text = made.path.read_text().replace("[model]\n", '[model]\ntwo_animals = "each"\n')
    made.path.write_text(text)
    model = made.config.model.model_copy(update={"two_animals": "each"})
    made.dispatcher._flights._config = made.config.model_copy(update={"model": model})
    yield made
    made.journal.close()


def job_of(desk, row):
    """The job that a worker would get."""
    return desk.dispatcher._flights._job_of(desk.journal.scan(row.id))


def answer(desk, row, *others: Result) -> Result:
    """What the worker makes of the job of a scan: the first animal, and these others."""
    job = job_of(desk, row)
    first = replace(product(), sop_instance_uid=job.sop_instance_uid)
    return replace(first, others=others)


def animal(desk, row, number: int, **changes) -> Result:
    """What the worker makes of another animal."""
    uid, _, _ = job_of(desk, row).others[number - 2]
    made = replace(product(), structure_set=f"RS {number}".encode(), sop_instance_uid=uid)
    return replace(made, animal_number=number, **changes)


def test_a_job_has_uids_for_every_animal(desk):
    """They follow from the input, so that a second run gives the same files."""
    row = desk.began()
    job = job_of(desk, row)
    assert (job.animal_number, len(job.others)) == (1, MOST_ANIMALS - 1)
    assert [each[:2] for each in job.others] == list(uids_of_others(row))
    uids = [job.sop_instance_uid, job.series_instance_uid]
    uids += [uid for each in job.others for uid in each[:2]]
    assert len(set(uids)) == 2 * MOST_ANIMALS
    assert {each[2] for each in job.others} == {""}, "nothing came before"


def test_each_animal_becomes_a_scan(desk):
    """With a number, a structure set, a picture and a delivery of its own."""
    row = desk.began(input_digest="d1")
    after = desk.lands(row, "finished", answer(desk, row, animal(desk, row, 2)))
    assert after.state == "contoured"
    first, second = desk.journal.animals_of(row.id)
    assert (second.name, second.field, second.animal_number) == ("scan-00002", first.id, 2)
    assert (second.input_digest, second.series_digest) == ("d1#2", "d1")
    assert (second.state, second.version, second.files) == ("contoured", 1, first.files)
    for scan, contents in ((first, b"RS"), (second, b"RS 2")):
        path = desk.config.results_dir / scan.name
        structure_set = desk.journal.structure_set_of(scan.id)
        assert (path / f"RS.{structure_set.sop_instance_uid}.dcm").read_bytes() == contents
        assert (path / "picture.png").read_bytes() == b"PNG"
        assert [each.state for each in desk.journal.deliveries(scan.id)] == ["waiting"]
    assert desk.journal.ready() == []


def test_one_that_is_held_or_refused_does_not_hold_the_others(desk):
    """Each has its own end, with its own reason."""
    row = desk.began()
    others = (
        animal(desk, row, 2, held="mirrored"),
        animal(desk, row, 3, ended="refused", reason="12 mm thick"),
    )
    desk.lands(row, "finished", answer(desk, row, *others))
    states = [(each.state, each.reason) for each in desk.journal.animals_of(row.id)]
    assert states == [("contoured", ""), ("contoured", ""), ("refused", "12 mm thick")]
    assert [each.name for each in desk.journal.on_hold()] == ["scan-00002"]


def test_after_a_kill_between_two_animals_the_other_is_contoured_alone(desk, monkeypatch):
    """All are in the journal before the first is filed; the job asks for the one that lacks."""
    row = desk.began()
    file = desk.results._file

    def killed(scan, flight, result):
        file(scan, flight, result)
        raise SystemExit

    monkeypatch.setattr(desk.results, "_file", killed)
    flight = JobInFlight("key", "worker", 1.0, 0.0, started=True)
    with pytest.raises(SystemExit):
        desk.results._file_each(row, flight, answer(desk, row, animal(desk, row, 2)))
    monkeypatch.setattr(desk.results, "_file", file)
    (waiting,) = desk.journal.ready()
    job = job_of(desk, waiting)
    assert (job.animal_number, job.others) == (2, ())
    assert (job.sop_instance_uid, job.series_instance_uid) == uids_of_others(row)[0]
    assert job.one_of_several
    assert job.input_digest == row.input_digest
    assert job_of(desk, row).others == (), "the first alone, should it run again"
    alone = replace(product(), animal_number=2, sop_instance_uid=job.sop_instance_uid)
    assert desk.lands(waiting, "finished", alone).state == "contoured"


def test_a_second_result_changes_nothing(desk):
    """The first may be at the planning system already."""
    row = desk.began()
    made = answer(desk, row, animal(desk, row, 2))
    desk.lands(row, "finished", made)
    desk.lands(row, "finished", made)
    assert len(desk.journal.scans()) == 2


def test_animals_of_a_cohort_are_sent_nowhere(desk):
    """As the first one of them."""
    row = desk.began(priority=COHORT)
    desk.lands(row, "finished", answer(desk, row, animal(desk, row, 2, held="mirrored")))
    second = desk.journal.animals_of(row.id)[1]
    assert (second.priority, second.logged, second.record["held"]) == (COHORT, True, "mirrored")
    assert desk.journal.on_hold() == []


def test_a_newer_version_has_each_animals_predecessor(desk):
    """The second animal's structure set replaces that of the second animal."""
    first = desk.began(input_digest="d1", files=("a.dcm",))
    desk.lands(first, "finished", answer(desk, first, animal(desk, first, 2, held="mirrored")))
    newer = desk.began(input_digest="d2", files=("a.dcm", "b.dcm"))
    assert (newer.version, newer.predecessor) == (2, first.id)
    uids = [desk.journal.structure_set_of(each).sop_instance_uid for each in (1, 2)]
    job = job_of(desk, newer)
    assert [job.predecessor_uid, *(each[2] for each in job.others)] == [*uids, "", ""]
    desk.lands(newer, "finished", answer(desk, newer, animal(desk, newer, 2)))
    before, after = (desk.journal.animals_of(each.id)[1] for each in (first, newer))
    assert (after.version, after.predecessor) == (2, before.id)
    assert desk.journal.structure_set_of(before.id).discarded_at is not None


def test_an_animal_stays_what_it_is_when_the_site_wants_one_from_now_on(desk):
    """The second animal waits; it is contoured as the second, and never as the largest."""
    row = desk.began()
    desk.lands(row, "finished", answer(desk, row, animal(desk, row, 2, ended="failed", reason="x")))
    desk.journal.retry(2, 9.0)
    flights = desk.dispatcher._flights
    model = flights._config.model.model_copy(update={"two_animals": "largest"})
    flights._config = flights._config.model_copy(update={"model": model})
    for scan, number in ((1, 1), (2, 2)):
        job = job_of(desk, desk.journal.scan(scan))
        assert (job.one_of_several, job.animal_number, job.others) == (True, number, ())
    fresh = job_of(desk, desk.began(series_instance_uid="2.25.77"))
    assert (fresh.one_of_several, fresh.others) == (False, ())


def test_a_result_of_another_animal_is_filed_nowhere(desk, caplog):
    """An error of limn, and the scan runs again."""
    row = desk.began()
    after = desk.lands(row, "finished", replace(product(), animal_number=2))
    assert after.state == "ready"
    assert "a result of animal 2 came for animal 1" in caplog.text


@pytest.mark.parametrize(("x_mm", "discarded"), [(-12.0, True), (17.0, False)])
def test_what_is_held_of_another_animal_stays(desk, x_mm, discarded):
    """The newer version has one of two animals, or the same one in another place."""
    old = desk.began(input_digest="d1", files=("a.dcm",))
    here = {"record": product().record | {"middle_xyz_mm": (-14.0, 0.0, 3.0)}}
    desk.lands(old, "finished", replace(product("mirrored"), **here))
    new = desk.began(input_digest="d2", files=("a.dcm", "b.dcm"))
    there = {"record": product().record | {"middle_xyz_mm": (x_mm, 0.0, 9.0)}}
    desk.lands(new, "finished", replace(product(), **there))
    assert (desk.journal.structure_set_of(old.id).discarded_at is not None) == discarded


def test_of_fewer_animals_in_a_newer_version_nothing_is_discarded(desk):
    """Which of the two it has now, their numbers don't say."""
    old = desk.began(input_digest="d1", files=("a.dcm",))
    first = replace(answer(desk, old, animal(desk, old, 2)), held="mirrored")
    desk.lands(old, "finished", first)
    new = desk.began(input_digest="d2", files=("a.dcm", "b.dcm"))
    desk.lands(new, "finished", answer(desk, new))
    assert [each.name for each in desk.journal.on_hold()] == ["scan-00001"]


def test_a_discarded_newer_version_discards_nothing(desk):
    """The person threw the newer one away, and had the older one contoured."""
    old = desk.journal.insert(arrived(input_digest="d1", files=("a.dcm",)), ("tps",))
    new = desk.journal.insert(
        arrived(input_digest="d2", files=("a.dcm", "b.dcm"), supersedes=True), ("tps",)
    )
    desk.lands(new, "finished", product("mirrored"))
    desk.journal.discard(new.id, "blurred", 5.0)
    assert desk.journal.retry(old.id, 900.0)
    desk.lands(old, "finished", product("mirrored"))
    assert [each.id for each in desk.journal.on_hold()] == [old.id]


def test_a_node_that_wants_one_animal_asks_for_one(tmp_path):
    """The default."""
    plain = Desk(tmp_path)
    assert job_of(plain, plain.began()).others == ()
    plain.journal.close()


SECOND = Place(2, 3, (-14.2, 3.0, 0.4))


def header(**values: str) -> Dataset:
    """A header with these elements."""
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize(
    ("model", "values", "name", "flag"),
    [
        ({}, {}, "", ""),
        ({"animals": ("M1", "M2", "M3")}, {}, "M2", "animal-name:M2"),
        ({"animals": ("M1", "M2")}, {}, "", "animal-names:2for3"),
        ({"animals": ("M1", "M1", "M2")}, {}, "", "animal-names:twice"),
        (
            {"animals_from": "StudyDescription"},
            {"StudyDescription": "A7, B8;C9"},
            "B8",
            "animal-name:B8",
        ),
        ({"animals_from": "ProtocolName"}, {"ProtocolName": "m1 m2 m3"}, "m2", "animal-name:m2"),
        (
            {"animals_from": "PatientComments"},
            {"PatientComments": "scan of 2026"},
            "of",
            "animal-name:of",
        ),
        ({"animals_from": "PatientComments"}, {}, "", ""),
    ],
)
def test_an_animal_is_named_by_the_site_or_the_header(model, values, name, flag):
    """Names that don't fit the count are no names: nobody guesses which is missing."""
    found = name_of(SECOND, Model(bundle=BUNDLE, **model), header(**values))
    assert (found.name, found.flag) == (name, flag)


def test_an_animals_label_fits_a_short_string():
    """Sixteen characters, of which the animal's name is never cut."""
    plain = name_of(SECOND, Model(bundle=BUNDLE), header())
    assert plain.label("LIMN") == "LIMN 2/3"
    assert plain.label("A long label 123") == "A long label 2/3"
    named = name_of(SECOND, Model(bundle=BUNDLE, animals=("a", "mouse-12345678", "c")), header())
    assert named.label("LIMN") == "L mouse-12345678"
    assert named.label("limn DEMO") == "limn DEMO 2/3", "the name has no room beside DEMO"
    assert plain.label("mouselab-01 DEMO") == "mousela DEMO 2/3"
    assert re.fullmatch(
        r"animal 2 of 3, mouse-12345678, in the middle of x -14, y 3, z 0 mm", named.words
    )
    only = name_of(Place(1, 1, (0.0, 0.0, 0.0)), Model(bundle=BUNDLE, animals=("a",)), header())
    assert (only.label("LIMN"), only.words) == ("LIMN", "")


@pytest.fixture
def work(monkeypatch):
    """What a worker makes of a job whose pipeline finds three animals, the third too large."""
    asked = []

    def contour_each(instances, ensemble, named, options, stopwatch, progress, only=None):
        asked.append(only)
        for number in (1, 2, 3):
            place = Place(number, 3, (10.0 * number, 0.0, 0.0))
            if number not in (only, None) and only is not None:
                continue
            if number == 3:
                yield place, RefusedSeries("40 mm thick")
                continue
            identity, name = named(place)
            said = f"{identity.sop_instance_uid} {identity.label} {identity.animal} {name}"
            labels = Labels(
                np.ones((1, 1, 1), np.uint8), axial_grid((1, 1, 1), MM, np.zeros(3)), {}
            )
            yield (
                place,
                SimpleNamespace(
                    structure_set=said.encode(),
                    picture=b"PNG",
                    labels=labels,
                    series=SimpleNamespace(rungs=np.zeros(1, np.intp)),
                    disagreement_zyx=np.zeros((1, 1, 1), np.uint8),
                    held=None,
                ),
            )

    monkeypatch.setattr(pipeline, "contour_each", contour_each)
    monkeypatch.setattr(contour_job, "_record", lambda product, ensemble, flag: {"flags": flag})

    def results(job):
        options = SimpleNamespace(style=SimpleNamespace(colours={}))
        identity = Identity(job.sop_instance_uid, "2.25.9", "20260101", "120000", "limn", "0", "a")
        made = contour_job._Work(
            *(job, [Instance(header(), Path())], None, None, options, identity),
            *(Stopwatch(), 1.0, Progress()),
        )
        return made.of_each(), asked

    return results


def test_a_worker_returns_each_animal_with_its_own_uids(desk, work):
    """One that can't be contoured says why, and the others are there."""
    job = job_of(desk, desk.began())
    (first, second, third), asked = work(job)
    assert asked == [None]
    assert (first.animal_number, first.sop_instance_uid) == (1, job.sop_instance_uid)
    assert (second.animal_number, second.sop_instance_uid) == (2, job.others[0][0])
    assert (third.animal_number, third.ended, third.reason) == (3, "refused", "40 mm thick")
    words = "animal 2 of 3 in the middle of x 20, y 0, z 0 mm"
    assert second.structure_set.decode() == f"{job.others[0][0]} limn 2/3 {words} "
    assert first.structure_set.decode().endswith(" scan-00001")


def test_a_preview_is_of_the_first_animal_alone(desk, work):
    """Its label says that it is one, whatever the animal is called."""
    job = replace(job_of(desk, desk.began()), preview=True)
    (first,), asked = work(job)
    assert asked == [1]
    assert " limn animal 1 of 3" in first.structure_set.decode()


def test_a_persons_name_comes_before_the_configs(desk, work):
    """In the label, of this animal alone."""
    job = replace(job_of(desk, desk.began()), animal_name="Minnie")
    (first, second, _), _ = work(job)
    assert first.structure_set.decode().split()[2] == "Minnie"
    assert "Minnie" not in second.structure_set.decode()
    assert first.record["flags"] == "animal-name:Minnie"


def test_a_named_animals_job_names_what_it_replaces(desk):
    """And the name that the person gave."""
    row = desk.began()
    desk.lands(row, "finished", product())
    (second,) = desk.journal.add_animals(row.id, [2], ())
    desk.journal.contoured(second.id, "", {"contoured_at": 1.0})
    before = desk.journal.structure_set_of(second.id).sop_instance_uid
    desk.journal.name_animal(second.id, "M2", "Anna", (), 2.0, ("20261201", "080000"))
    job = job_of(desk, desk.journal.scan(second.id))
    assert (job.animal_name, job.predecessor_uid) == ("M2", before)
