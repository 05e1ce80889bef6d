"""``limn models compare``: the figures of each organ, the scans that differ most, and the CSV."""

import csv
import io

from limn.cli import main
from limn.domain.records import OrganDifference
from limn.node.store.disk.comparisons import Comparison, path_of, write_comparison
from tests.support.organs import Organ


def compare(site, capsys, *options):
    """What the command prints."""
    assert main.main(["models", "compare", "--config", str(site.config), *options]) == 0
    return capsys.readouterr().out


def drawn(scan, dsc, new_light="green", **changes):
    """A comparison of heart and lung."""
    organs = tuple(
        OrganDifference(
            organ=organ,
            dsc=value,
            hd95_mm=1.0 - value,
            old_mm3=100.0,
            new_mm3=100.0 * value,
            old_light="green",
            new_light=new_light,
        )
        for organ, value in ((Organ.HEART, dsc), (Organ.LUNG_L, 0.99))
    )
    values = {"scan": scan, "animal": f"=M{scan}", "at": 1.0, "old": "a-1", "old_sha256": "a" * 64}
    values |= {"new": "b-1", "new_sha256": "c" * 64, "organs": organs}
    return Comparison(**(values | changes))


def test_nothing_yet(site, capsys):
    """What to set."""
    assert "set model.shadow" in compare(site, capsys)


def test_the_table_and_the_worst(site, capsys, monkeypatch):
    """Medians, the least, lights that changed; the worst scan first, with its picture."""
    monkeypatch.setenv("COLUMNS", "200")
    folder = site.data / "shadow"
    for scan, dsc, light in ((1, 0.95, "green"), (2, 0.70, "amber"), (3, 0.90, "green")):
        write_comparison(folder, drawn(scan, dsc, light), b"png")
    write_comparison(folder, drawn(4, 0.5, outcome="failed", reason="no mouse", organs=()))
    lines = compare(site, capsys).splitlines()
    assert lines[0] == f"b-1 ({'c' * 12}) beside a-1 ({'a' * 12}): 3 of 4 scans compared"
    (heart,) = [line for line in lines if line.strip().startswith("Heart")]
    assert heart.split()[1:6] == ["3", "0.900", "0.700", "0.10", "0.30"]
    assert "-10.0 % (-30.0 to -5.0)" in heart
    assert "1 green to amber" in heart
    worst = lines[lines.index("the scans that differ most:") + 1]
    picture = path_of(folder, 2, "c" * 64, ".png")
    assert worst == (
        "scan-00002 animal =M2: Heart DSC 0.700, 95 % 0.30 mm, -30.0 % volume; " + str(picture)
    )
    assert lines[-1] == "scan-00004 animal =M4: no mouse"
    assert "1 of 2 scans compared" in compare(site, capsys, "--last", "2")


def test_every_row_as_csv(site, capsys):
    """A text that a spreadsheet would take for a formula is neutral."""
    write_comparison(site.data / "shadow", drawn(1, 0.95))
    rows = list(csv.DictReader(io.StringIO(compare(site, capsys, "--csv"))))
    assert [(row["scan"], row["organ"], row["dsc"]) for row in rows] == [
        ("scan-00001", "Heart", "0.95"),
        ("scan-00001", "Lung_L", "0.99"),
    ]
    assert rows[0]["animal"] == "'=M1"
    assert round(float(rows[0]["change_percent"]), 6) == -5.0
