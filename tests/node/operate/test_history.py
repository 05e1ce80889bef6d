"""Which scans a person asks for, what is usual among them, and why one was slow: pure values."""

import time
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limn.domain.errors import ConfigWrong
from limn.domain.records import RoiRecord, ScanRecord
from limn.domain.timing import DOOR_TO_DOOR_STAGES
from limn.node.deliver.scan_record import closed_record
from limn.node.operate.history.animals import courses_of, roi_measure
from limn.node.operate.history.choice import Choice, csv_of, given_choice, names_in
from limn.node.operate.history.scans import Part, cohort_of, logged_scan
from limn.node.operate.history.summary import Usual, groups_of, spread, summary_of
from limn.node.operate.history.trend import trend_of
from limn.node.store.disk import scanlog
from limn.node.store.journal.journal import Journal
from tests.support.node.parts import arrived


def rows_of(path, *records):
    """Rows as the courier writes them and `scanlog` reads them."""
    scanlog.append(path, *records)
    return scanlog.rows(path)


def record(number, **changes):
    """A delivered scan that took 10 s, of which the networks took 5."""
    values = {
        "scan_id": f"scan-{number:05d}",
        "animal": f"C57-{number}",
        "sender": "CT-EAST@10.0.0.1",
        "outcome": "delivered",
        "last_slice_utc": f"2026-11-{number:02d}T10:00:00.000+00:00",
        "accepted_utc": "2026-11-30T10:00:10.000+00:00",
        "bundle": "phantom-7",
        "device": "cpu openvino int8",
        "grid": "200x200x200 0.1x0.1x0.1 mm",
        "light": "green",
        "flags": "light:green",
        **dict.fromkeys(DOOR_TO_DOOR_STAGES, 0.0),
        "settle_s": 2.0,
        "queue_s": 0.5,
        "inference_s": 5.0,
        "read_s": 2.0,
        "deliver_s": 0.5,
        "door_to_door_s": 10.0,
    }
    return ScanRecord(**(values | changes))


@pytest.fixture
def path(tmp_path):
    """Where the log of a test lies."""
    return tmp_path / "data" / "scans.csv"


def scans_of(path, *records):
    """Scans of the log as values."""
    return [logged_scan(row) for row in rows_of(path, *records)]


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ({}, [1, 2, 3, 4]),
        ({"since": "2026-11-02", "until": "2026-11-03"}, [2, 3]),
        ({"animal": "C57-1"}, [1]),
        ({"animal": "C57*"}, [1, 2, 4]),
        ({"animal": "*7-*"}, [1, 2, 4]),
        ({"animal": "C57"}, []),
        ({"animal": "C.7-1"}, []),
        ({"scanner": "CT-WEST"}, [2]),
        ({"scanner": "CT-WEST@10.0.0.2"}, [2]),
        ({"scanner": "CT-*"}, [1, 2, 3, 4]),
        ({"light": "red"}, [3]),
        ({"flag": "cut"}, [4]),
        ({"flag": "cut:Lung_L"}, [4]),
        ({"flag": "cu"}, []),
        ({"slower_s": "10"}, [1, 2, 4]),
        ({"slower_s": "10.5"}, [4]),
        ({"bundle": "phantom-*", "light": "green", "until": "2026-11-02"}, [1, 2]),
    ],
)
def test_a_choice_takes_what_it_names_and_nothing_else(path, given, numbers):
    """Rows and values alike; whole names, with a star for any text."""
    rows = rows_of(
        path,
        record(1),
        record(2, sender="CT-WEST@10.0.0.2"),
        # Never delivered, so that it was neither slow nor quick.
        record(3, animal="FVB 3", light="red", outcome="refused", door_to_door_s=None),
        record(4, flags="light:green cut:Lung_L", door_to_door_s=12.0),
    )
    choice = Choice(**given)
    names = [f"scan-{number:05d}" for number in numbers]
    assert [row["scan_id"] for row in choice.rows_of(rows)] == names
    assert [scan.name for scan in choice.of(map(logged_scan, rows))] == names


def fits(pattern, name):
    """Whether a name fits, by trying every length for each star."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(fits(pattern[1:], name[k:]) for k in range(len(name) + 1))
    return name[:1] == pattern[0] and fits(pattern[1:], name[1:])


@given(
    pattern=st.text(st.sampled_from("aA.\n*"), max_size=6),
    name=st.text(st.sampled_from("aA.\n"), max_size=7),
)
@settings(max_examples=400, deadline=None)
def test_a_star_stands_for_any_text(pattern, name):
    """Also for none and for lines; the case counts, and every other sign is itself."""
    assert Choice(animal=pattern).takes_animal(name) == (not pattern or fits(pattern, name))


@pytest.mark.parametrize("pattern", ["*" * 10_000 + "!", "*a" * 5_000 + "!", "*a*" * 5_000])
def test_many_stars_are_answered_at_once(pattern):
    """A person, or a page that a person opened, must not stop the board with one choice."""
    began_s = time.process_time()
    assert not Choice(animal=pattern).takes_animal("a" * 4_000)
    assert time.process_time() - began_s < 1.0


def test_the_order_is_that_of_the_last_slice(path):
    """A scan that was held for a week is logged late; two rows of one scan stay as they were."""
    rows = rows_of(
        path,
        record(3),
        record(1),
        record(2, outcome="refused"),
        record(2, reason="released"),
    )
    listed = Choice().rows_of(rows)
    assert [row["scan_id"][-1] for row in listed] == ["1", "2", "2", "3"]
    assert [row["outcome"] for row in listed[1:3]] == ["refused", "delivered"]
    assert (
        csv_of(reversed(Choice().rows_of(rows))) != csv_of(listed) == csv_of(Choice().rows_of(rows))
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"since": "yesterday"}, "--since yesterday: a day as YYYY-MM-DD expected"),
        ({"until": "2026-02-30"}, "--until 2026-02-30: a day"),
        # Python reads these; compared as text they would choose wrongly.
        ({"since": "20260101"}, "YYYY-MM-DD expected"),
        ({"since": "2026-W01-1"}, "YYYY-MM-DD expected"),
        ({"since": ""}, "--since is empty"),
        ({"since": "2026-02-01", "until": "2026-01-01"}, "lies before --since 2026-02-01"),
        ({"light": "blue"}, "--light blue: green, amber, red expected"),
        ({"slower_s": "fast"}, "--slower-than fast: seconds expected"),
        ({"slower_s": "nan"}, "--slower-than nan: seconds expected"),
        ({"slower_s": "-1"}, "--slower-than -1: seconds expected"),
        ({"slower_s": " "}, "--slower-than is empty"),
        ({"scanner": "*" * 301}, "--scanner has 301 letters: 300 at most expected"),
        ({"slower_s": "1" * 400}, "--slower-than has 400 letters: 300 at most expected"),
    ],
)
def test_what_can_not_be_read_is_named(given, words):
    """The option, the value and what is expected."""
    with pytest.raises(ConfigWrong, match=words.replace("(", r"\(")):
        given_choice("--", **given)


def test_a_scan_that_was_never_contoured_has_no_times(tmp_path, path):
    """Empty, and not 0.0, so that no mean counts it; a contoured one has every stage."""
    with closing(Journal(tmp_path / "journal.sqlite")) as journal:
        refused = journal.insert(arrived(), ("tps",))
        journal.end(refused.id, "refused", "why", {})
        contoured = journal.insert(arrived(input_digest="d2"), ("tps",))
        journal.contoured(contoured.id, "/rs", {"inference_s": 4.0, "contoured_at": 1.0})
        records = [
            closed_record(journal.scan(each.id), None, None) for each in (refused, contoured)
        ]
    first, second = rows_of(path, *records)
    empty = {name for name, value in first.items() if value == ""}
    assert empty >= {*DOOR_TO_DOOR_STAGES, "runtime_s", "door_to_door_s"} - {"settle_s"}
    assert empty >= {"heart_mm3", "lung_l_fold_dsc", "cord_predicted_dsc", "heart_removed_voxels"}
    assert first["settle_s"] == "0.5"
    assert (second["inference_s"], second["transfer_s"], second["deliver_s"]) == ("4.0", "0.0", "")


def test_a_summary_keeps_waiting_apart_from_computing(path):
    """p50, p95 and max of each stage, by scanner and bundle; a person's time beside all."""
    scans = scans_of(
        path,
        *(
            record(number, inference_s=float(number), door_to_door_s=5.0 + number)
            for number in range(1, 21)
        ),
        record(21, outcome="refused", door_to_door_s=None, light="", flags=""),
        record(
            22,
            sender="X@1",
            flags="light:green held:600s",
            bundle="other",
            queue_s=30.0,
            door_to_door_s=39.5,
        ),
    )
    found = summary_of(scans, Usual(scans))
    assert (found.count, found.outcomes) == (22, {"delivered": 21, "refused": 1})
    assert (found.lights, found.flags) == ({"green": 21}, {"held": 1})
    assert (found.stages["inference_s"].p50_s, found.stages["inference_s"].max_s) == (10.0, 20.0)
    assert found.parts[Part.QUEUE].max_s == 30.0
    assert found.parts[Part.REST].p50_s == 2.0
    assert (found.person.count, found.person.max_s) == (1, 600.0)
    east, other = found.scanners
    assert (east.name, east.count, east.whole.count, other.name) == ("CT-EAST", 21, 20, "X")
    assert (east.waiting.p95_s, other.waiting.p95_s) == (3.0, 32.5)
    assert [group.name for group in found.bundles] == ["other", "phantom-7"]
    assert found.slowest.name == "scan-00022"
    assert found.why.words == (
        "in the queue 30.0 s, usually 0.50 s; waited 10 min for a person, which does not count"
    )


def test_a_spread_of_nothing_is_none():
    """And 95 % of twenty is the last but none."""
    assert spread([None]) is None
    found = spread([float(k) for k in range(1, 21)])
    assert (found.p50_s, found.p95_s, found.max_s) == (10.5, 20.0, 20.0)


@pytest.mark.parametrize(
    ("changes", "words", "slow"),
    [
        ({}, "networks 5.00 s, as usual", False),
        ({"inference_s": 5.8}, "networks 5.80 s, usually 5.00 s", False),
        (
            {"inference_s": 30.0, "door_to_door_s": 35.0, "grid": "400x400x400 0.1 mm"},
            "networks 30.0 s, usually 5.00 s; 64.0 million voxels, usually 8.0",
            True,
        ),
        (
            {"inference_s": 30.0, "door_to_door_s": 35.0, "device": "cpu torch", "tries": 2},
            "networks 30.0 s, usually 5.00 s; on cpu torch, usually cpu openvino int8; try 2",
            True,
        ),
        # The networks took longest as always; the queue made it slow.
        (
            {"queue_s": 4.5, "door_to_door_s": 14.0},
            "in the queue 4.50 s, usually 0.50 s",
            True,
        ),
        (
            {"deliver_s": 60.0, "door_to_door_s": 69.5},
            "until the destination has it 60.0 s, usually 0.50 s",
            True,
        ),
    ],
)
def test_why_a_scan_was_slow(path, changes, words, slow):
    """The stage that exceeds its usual time most, and what else differs."""
    *usual, scan = scans_of(path, *map(record, range(1, 10)), record(10, **changes))
    why = Usual(usual).why(scan)
    assert (why.words, why.slow) == (words, slow)


def test_usual_is_what_the_same_bundle_takes(path):
    """A bundle with few scans is compared with all."""
    scans = scans_of(
        path,
        *map(record, range(1, 10)),
        *(record(n, bundle="slow", inference_s=50.0, door_to_door_s=55.0) for n in range(10, 16)),
        record(16, bundle="new", inference_s=50.0, door_to_door_s=55.0),
    )
    usual = Usual(scans)
    assert not usual.why(scans[10]).slow
    assert usual.why(scans[-1]).slow
    assert Usual([]).why(scans[0]).slow, "anything is more than nothing"


@pytest.mark.parametrize(
    ("animal", "cohort"),
    [
        *(("C57-12", "C57"), ("C57-A 03", "C57-A"), ("M7", "M"), ("2024_017_3", "2024_017")),
        *(("1234", "1234"), ("", ""), ("mouse", "mouse")),
    ],
)
def test_a_cohort_is_the_name_without_its_number(animal, cohort):
    """A PatientID that is a number alone is its own."""
    assert cohort_of(animal) == cohort


@pytest.mark.parametrize(
    ("days", "unit", "names"),
    [
        ((1, 1, 2), "day", ["2026-11-01", "2026-11-02"]),
        # The 1st of November 2026 is a Sunday, the 2nd a Monday.
        ((1, 2, 8), "week", ["week from 2026-10-26", "week from 2026-11-02"]),
        ((1, 30), "month", ["2026-11"]),
    ],
)
def test_steps_of_time(path, days, unit, names):
    """Of one day, one week from Monday on, one month; with their scans' mean parts."""
    scans = scans_of(path, *(record(day) for day in days))
    trend = trend_of(scans, lambda scan: scan.delivered_s, unit)
    assert [step.name for step in trend.steps] == names
    assert sum(step.count for step in trend.steps) == len(days)
    for step in trend.steps:
        assert step.begins_at <= scans[-1].at
        assert sum(step.parts_s.values()) == pytest.approx(10.0)
    assert trend_of(scans, lambda scan: scan.delivered_s).unit == "day"
    assert trend_of([], lambda scan: scan.delivered_s).steps == ()


def test_an_animals_rois_over_time(path):
    """Oldest first; a scan that was sent again counts once, a discarded one not at all."""

    def roi(scan, day, hu, outcome="delivered", animal="M1"):
        return RoiRecord(
            scan_id=scan,
            animal=animal,
            outcome=outcome,
            last_slice_utc=f"2026-11-{day:02d}T10:00:00.000+00:00",
            roi="Lung_L",
            role="lung_l",
            volume_mm3=100.0 + day,
            mean_hu=hu,
        )

    rows = rows_of(
        scanlog.roi_table(path),
        roi("scan-00002", 9, -500.0),
        roi("scan-00001", 2, -520.0, "refused by peer"),
        roi("scan-00001", 2, -521.0),
        roi("scan-00003", 12, None),
        roi("scan-00004", 13, -100.0, "discarded"),
        roi("scan-00005", 14, -1.0, animal="M11"),
    )
    (lung,) = courses_of("M1", map(roi_measure, rows))
    assert (lung.roi, lung.role) == ("Lung_L", "lung_l")
    assert [(each.scan, each.mean_hu) for each in lung.measures] == [
        ("scan-00001", -521.0),
        ("scan-00002", -500.0),
        ("scan-00003", None),
    ]
    assert courses_of("M", map(roi_measure, rows)) == ()


def test_a_row_of_another_limn_is_read(path):
    """Columns that are missing or no numbers are not known."""
    scan = logged_scan({"scan_id": "scan-00001", "door_to_door_s": "soon", "queue_s": "nan"})
    assert (scan.door_to_door_s, scan.at, scan.stages_s) == (None, None, (None,) * 14)
    assert names_in([scan], 5) == {"scanner": [], "animal": [], "bundle": [], "flag": []}
    (group,) = groups_of([scan], lambda each: each.scanner)
    assert (group.count, group.whole) == (1, None)
