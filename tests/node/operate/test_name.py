"""A person names one of several animals: before it is contoured, or after."""

import pytest


@pytest.fixture
def field(site):
    """Two animals of one field, both contoured and delivered to the folder."""
    first = site.contoured(1)
    (second,) = site.journal.add_animals(first.id, [2], ("tps", "export"))
    uid = site.journal.structure_set_of(second.id).sop_instance_uid
    site.journal.contoured(second.id, str(site.data / f"RS.{uid}.dcm"), {"contoured_at": 1.0})
    for row in (first, second):
        for delivery in site.journal.deliveries(row.id):
            site.journal.delivered(delivery.id, "0x0000", 2.0)
    return first, site.journal.scan(second.id)


def test_a_contoured_animal_gets_its_name_in_a_structure_set_of_its_own(site, field):
    """Other UIDs, the one before as predecessor, the same destinations; the other animal stays."""
    first, second = field
    before = site.journal.structure_set_of(second.id)
    said = site.limn("name", second.name, "M2", "--by", "Anna")
    assert f"{second.name} animal M1 is M2 by Anna" in said
    row, after = site.journal.scan(second.id), site.journal.structure_set_of(second.id)
    assert (row.state, row.animal_name, row.named_by) == ("ready", "M2", "Anna")
    assert after.replaces == before.sop_instance_uid != after.sop_instance_uid
    assert site.states(row) == ["waiting", "waiting"]
    assert site.journal.scan(first.id).state == "contoured"
    assert site.states(first) == ["delivered", "delivered"]


def test_an_animal_that_waits_has_its_name_at_once(site):
    """Nothing runs twice."""
    first = site.scan(1)
    (second,) = site.journal.add_animals(first.id, [2], ("tps",))
    before = site.journal.structure_set_of(second.id)
    assert "contoured again" not in site.limn("name", second.name, "M2")
    assert site.journal.scan(second.id).animal_name == "M2"
    assert site.journal.structure_set_of(second.id) == before


@pytest.mark.parametrize(
    ("scan", "name", "words"),
    [
        ("scan-00009", "M2", "is unknown"),
        ("scan-00002", "M" * 33, "a name of 32 characters, 33 were given"),
        ("scan-00002", " ", "is empty"),
        ("scan-00003", "M2", "only animal in its field"),
        ("scan-00001", "taken", "because scan-00002 of the same field is"),
    ],
)
def test_what_can_not_be_named(site, field, scan, name, words):
    """The scan, and why; nothing is changed."""
    site.contoured(3)
    site.limn("name", field[1].name, "taken")
    assert words in " ".join(site.refused("name", scan, name).split())
    assert site.journal.scan(field[0].id).animal_name == ""


def test_an_animal_that_is_being_contoured_is_named_later(site):
    """The worker has its job already."""
    first = site.scan(1)
    (second,) = site.journal.add_animals(first.id, [2], ("tps",))
    site.journal.started(second.id)
    assert "is being contoured" in site.refused("name", second.name, "M2")


def test_a_held_animal_is_released_first(site):
    """Its person has not looked yet, and its name would let it go."""
    first = site.scan(1)
    (second,) = site.journal.add_animals(first.id, [2], ("tps",))
    uid = site.journal.structure_set_of(second.id).sop_instance_uid
    site.journal.contoured(second.id, str(site.data / f"RS.{uid}.dcm"), {}, "the lungs are small")
    assert "is held: release it first" in " ".join(site.refused("name", second.name, "M2").split())
    assert site.journal.structure_set_of(second.id).on_hold


def test_an_animal_on_its_way_is_named_when_it_is_there(site):
    """The planning system must not get the one without a name afterwards."""
    first = site.scan(1)
    (second,) = site.journal.add_animals(first.id, [2], ("tps",))
    uid = site.journal.structure_set_of(second.id).sop_instance_uid
    site.journal.contoured(second.id, str(site.data / f"RS.{uid}.dcm"), {})
    said = " ".join(site.refused("name", second.name, "M2").split())
    assert "is on its way to tps; name it when it is there" in said
    assert site.journal.scan(second.id).animal_name == ""


def test_an_animal_whose_slices_are_gone_keeps_its_structure_set(site, field):
    """It can't be contoured again."""
    _, second = field
    (site.data / "spool" / "1" / "a.dcm").unlink()
    said = " ".join(site.refused("name", second.name, "M2").split())
    assert "has lost 1 of its 2 slices in" in said
    assert site.journal.scan(second.id).state == "contoured"
