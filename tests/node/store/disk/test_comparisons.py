"""What is kept of the shadow's drawings."""

from limn.domain.records import OrganDifference
from limn.node.store.disk import comparisons
from limn.node.store.disk.comparisons import (
    Comparison,
    path_of,
    read_comparisons,
    worst_first,
    write_comparison,
)
from tests.support.organs import Organ

NEW = "c" * 64


def made(scan, dsc, **changes):
    """A comparison of one organ."""
    organ = OrganDifference(organ=Organ.HEART, dsc=dsc, hd95_mm=0.3, old_mm3=100.0, new_mm3=90.0)
    values = {"scan": scan, "animal": f"M{scan}", "at": 1.0, "old": "a-1", "old_sha256": "a" * 64}
    values |= {"new": "b-1", "new_sha256": NEW, "organs": (organ,)}
    return Comparison(**(values | changes))


def test_comparisons_come_back_by_scan_and_bundle(tmp_path):
    """Another shadow's stay apart."""
    folder = tmp_path / "shadow"
    one, two = made(1, 0.9), made(2, 0.8)
    other = made(1, 0.5, new_sha256="d" * 64)
    for each in (two, one, other):
        write_comparison(folder, each)
    assert read_comparisons(folder, NEW) == [one, two]
    assert read_comparisons(folder, scan=1) == [one, other]
    assert worst_first(read_comparisons(folder)) == [other, two, one]
    assert one.organs[0].change_percent == -10.0


def test_only_the_worst_keep_their_picture(tmp_path, monkeypatch):
    """The disk of a node is for slices."""
    monkeypatch.setattr(comparisons, "PICTURES", 2)
    for scan, dsc in ((1, 0.9), (2, 0.7), (3, 0.95), (4, 0.8)):
        write_comparison(tmp_path, made(scan, dsc), b"png")
    kept = [scan for scan in (1, 2, 3, 4) if path_of(tmp_path, scan, NEW, ".png").exists()]
    assert kept == [2, 4]
    assert len(read_comparisons(tmp_path, NEW)) == 4


def test_only_the_newest_are_kept(tmp_path, monkeypatch):
    """A node runs for years; another shadow's are its own."""
    monkeypatch.setattr(comparisons, "KEPT", 2)
    other = made(1, 0.5, new_sha256="d" * 64)
    write_comparison(tmp_path, other)
    for scan, dsc in ((1, 0.1), (2, 0.9), (3, 0.8)):
        write_comparison(tmp_path, made(scan, dsc), b"png")
    assert [each.scan for each in read_comparisons(tmp_path, NEW)] == [2, 3]
    assert not path_of(tmp_path, 1, NEW, ".png").exists()
    assert read_comparisons(tmp_path, "d" * 64) == [other]


def test_one_that_failed_is_the_worst():
    """A person should see it first."""
    failed = made(1, 0.9, outcome="failed", organs=())
    assert worst_first([made(2, 0.0), failed])[0] is failed
