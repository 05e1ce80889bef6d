"""A phantom that commissions the node goes to the commissioning, and where a person says, alone."""

import time
from pathlib import Path

import pytest

from limn.node.config import load_config
from limn.node.store.disk.commission import (
    BELIEVED_S,
    announce_phantom,
    destinations_of,
    why_no_phantom,
)
from tests.support.node.site import Site

ALL = ("tps", "archive")


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """Where a commissioning writes where its phantoms may go."""
    return tmp_path / "commissioning.json"


def test_animals_go_where_the_config_says(note: Path) -> None:
    """Whatever a commissioning lets its phantoms do."""
    announce_phantom(note, ["2.25.1"], [], time.time())
    assert destinations_of("M17", ALL, note, time.time()) == ALL
    assert destinations_of("MYCOMMISSIONING-1", ALL, note, time.time()) == ALL


@pytest.mark.parametrize("animal", ["COMMISSIONING-LIE-FFP", " commissioning-x"])
def test_phantoms_go_to_the_commissioning_alone(note: Path, animal: str) -> None:
    """Without a note, with a damaged one, with one that was left behind."""
    alone = ("commissioning",)
    assert destinations_of(animal, ALL, note, time.time()) == alone
    note.write_text("{")
    assert destinations_of(animal, ALL, note, time.time()) == alone
    announce_phantom(note, ["2.25.1"], ["tps"], time.time() - BELIEVED_S - 1)
    assert destinations_of(animal, ALL, note, time.time()) == alone


def test_a_person_names_a_planning_system(note: Path) -> None:
    """Only one that the config still has."""
    announce_phantom(note, ["2.25.1"], ["archive", "gone"], time.time())
    found = destinations_of("COMMISSIONING-LIE-FFP", ALL, note, time.time())
    assert found == ("commissioning", "archive")


def test_an_animal_whose_name_begins_as_a_phantoms_is_refused(note: Path) -> None:
    """It would reach no planning system; only what the commissioning announced comes in."""
    now = time.time()
    assert why_no_phantom("M17", "2.25.9", note, now) == ""
    assert "give the animal another PatientID" in why_no_phantom(" commissioning-x", "2", note, now)
    announce_phantom(note, ["2.25.1"], [], now)
    assert why_no_phantom("COMMISSIONING-X", "2.25.1", note, now) == ""
    assert why_no_phantom("COMMISSIONING-X", "2.25.9", note, now)
    assert why_no_phantom("COMMISSIONING-X", "2.25.1", note, now + BELIEVED_S + 1)
    note.write_text('{"written_at": 1e10, "contents": {"series": 3}}')
    assert why_no_phantom("COMMISSIONING-X", "2.25.1", note, 1e10)


def test_the_courier_logs_a_phantom_once_the_commissioning_has_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a flag by which `limn log` leaves it out, and nothing to the planning system."""
    site = Site(tmp_path, capsys)
    config = load_config(site.config)
    row = site.scan(1, animal="COMMISSIONING-ANIMAL-1")
    names = [each.name for each in config.destination]
    assert destinations_of(row.animal, names, config.commissioning_path, time.time()) == (
        "commissioning",
    )
    site.contoured(2, "commissioning", animal="COMMISSIONING-ANIMAL-2")
    delivery = next(
        each for each in site.journal.deliveries(2) if each.destination == "commissioning"
    )
    site.journal.delivered(delivery.id, "0x0000", time.time(), ())
    site.courier()._log_ended()
    listed = site.limn("log", "--csv")
    assert "COMMISSIONING-ANIMAL-2" in listed
    assert ",commissioning," in listed
    assert "COMMISSIONING" not in site.limn("log", "--csv", "--without", "commissioning")
    assert "COMMISSIONING-ANIMAL-2" in site.limn("log", "--csv", "--flag", "commissioning")
