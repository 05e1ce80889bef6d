"""What nnunetv2 is told of a data set."""

from limn.lab.dataset import Entry
from limn.lab.nnunet_jobs import splits


def scan(animal, fold):
    """A scan that trains."""
    said = dict.fromkeys(Entry.__dataclass_fields__, "")
    return Entry(**said | {"scan": f"{animal}-t0", "animal": animal, "fold": str(fold)})


def test_a_fold_stands_where_nnunetv2_looks_for_it():
    """By its number, beyond nine and after a gap; no animal on both sides."""
    entries = [scan(f"a{fold}", fold) for fold in (0, 2, 10)]
    found = splits(entries)
    assert len(found) == 11
    for own in entries:
        place = found[int(own.fold)]
        assert place["val"] == [own.scan]
        assert sorted(place["train"]) == sorted(e.scan for e in entries if e != own)
