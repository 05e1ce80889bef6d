"""The paper's tables from its published numbers and from synthetic scores."""

import csv
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limn.cli import main
from limn.domain.errors import ConfigWrong
from limn.lab.measure.scores import Score, write_scores
from limn.lab.report import published, summary, tables
from limn.lab.words import ORGAN_WORDS, PAPER_STRUCTURES, in_order
from tests.conftest import REPOSITORY
from tests.support.organs import Organ

PAPER = REPOSITORY.parent / "shared" / "paper.txt"
# Lines of the paper's tables; the other lines are compared with its text if that is available.
TABLE_LINES = {
    ("test1", "Heart", "3d_lowres"): "0.95 ± 0.01 0.949* 0.09 ± 0.02 0.090* 0.30 ± 0.07 0.28",
    ("test1", "SpinalCord", "2d"): "0.91 ± 0.02 0.907* 0.04 ± 0.01 0.036 0.28 ± 0.02 0.28",
    ("test1", "Lung_R", "2d"): "0.97 ± 0.01 (0.97 ± 0.01) 0.966* 0.60 ± 0.84 (0.04 ± 0.01) 0.112* "
    "5.29 ± 19.8 (0.42 ± 0.00) 0.42",
    ("test2", "Lung_L", "2d"): "0.77 ± 0.18 0.81* 0.80 ± 0.64 0.65* 9.54 ± 9.88 3.52*",
}
TABLE3_LINES = {
    "3d_fullres": "90% ± 1% 95% ± 1% 65% ± 6% 87% ± 3% 92% ± 2% 75% ± 7%",
    "2d": "89% ± 2% 94% ± 1% 66% ± 6% 72% ± 22% 81% ± 16% 65% ± 14%",
    "observers": "79% ± 3% 86% ± 2% 60% ± 6% 80% ± 3% 81% ± 8% 69% ± 6%",
}
SCANS = 12
HEART_OF_LIMN = ("limn", "Heart")
SHIFT = {"3d_fullres": 0.0, "2d": -0.02, "aimos": 0.0}


def row_text(row, test_set):
    """The cells of a line as printed in the paper."""
    return " ".join(tables.accuracy_cells(row, test_set))


@pytest.mark.parametrize("key", TABLE_LINES)
def test_published_lines_are_reproduced(key):
    """Means, medians, asterisks, parentheses and decimals are those of the paper."""
    test_set, organ, system = key
    found = {(row.organ, row.system): row for row in published.accuracy(test_set)}
    assert row_text(found[organ, system], test_set) == TABLE_LINES[key]


@pytest.mark.parametrize(("test_set", "systems"), [("test1", 5), ("test2", 3)])
def test_every_published_line_stands_in_the_paper(test_set, systems):
    """All of Tables 1 and 2, compared with the paper's text if that is available."""
    rows = published.accuracy(test_set)
    assert len(rows) == 4 * systems
    assert [row.organ for row in rows] == [organ for organ in Organ for _ in range(systems)]
    for k in range(0, len(rows), systems):
        keys = [row.system for row in rows[k : k + systems]]
        assert [system.key for system in in_order(set(keys))] == sorted(
            keys, key=["3d_fullres", "3d_lowres", "3d_cascade", "2d", "aimos"].index
        )
    if not PAPER.exists():
        pytest.skip("the paper's text is not here")
    words = re.sub(r"\s+", " ", PAPER.read_text())
    start = words.index({"test1": "Table 1. ", "test2": "Table 2. "}[test_set])
    for row in rows:
        name = "UNet-768" if row.system == "aimos" else row.system
        line = f"{name} {row_text(row, test_set)}"
        # Lines of one model follow each other organ by organ.
        start = words.index(line, start) if row.system == rows[0].system else start
        assert words.find(line, start) > 0, line


def test_published_table_3():
    """Per cent; the best system is bold, the observers never are."""
    cells = published.conformity()
    assert len(cells) == 4 * 6
    for system, line in TABLE3_LINES.items():
        assert " ".join(tables.conformity_cells(cells, system)).replace("**", "") == line
    bold = [text.startswith("**") for text in tables.conformity_cells(cells, "3d_fullres")]
    assert bold == [True, True, False, True, True, True]
    bold = [text.startswith("**") for text in tables.conformity_cells(cells, "2d")]
    assert bold == [False, False, True, False, False, False]
    assert not any("**" in text for text in tables.conformity_cells(cells, "observers"))


def test_published_table_4():
    """Whole seconds; 40 minutes by hand."""
    found = {time.system: tables.time_cells(time) for time in published.times()}
    assert found["3d_fullres"] == ("5", "27", "40")
    assert found["3d_cascade"] == ("17", "28", "52")
    assert found["aimos"] == ("6", "2", "20")
    assert found["manual"] == ("-", "-", "2400")


def test_a_short_time_is_not_zero():
    """Tenths below ten seconds; less than a tenth is <0.1."""
    assert tables.time_cells(summary.Time("limn", 0.04, 2.46, 12.6)) == ("<0.1", "2.5", "13")


def synthetic(missed: bool = False) -> list[Score]:
    """Three systems on 12 scans of 4 animals; the second is worse on each, the third is random."""
    rng = np.random.default_rng(3)
    scores = []
    for k in range(SCANS):
        scan, animal = f"s{k:02d}", f"a{k % 4}"
        for organ in Organ:
            base = 0.9 + 0.005 * k
            luck = float(rng.normal(0, 1e-3))
            for system, shift in SHIFT.items():
                worse = shift * (1 + 0.01 * k) + (luck if system == "aimos" else 0)
                gone = missed and (k, system, organ) == (5, "2d", Organ.HEART)
                for cleaned in ("no", "yes"):
                    # The clean-up changes the 95p HD of one system only.
                    gain = 2.0 if (system, cleaned) == ("2d", "no") else 0.0
                    for measure, value in (
                        ("dsc", base + worse),
                        ("msd_mm", 0.1 - worse),
                        ("hd95_mm", 0.3 - worse + gain),
                    ):
                        lost = 0.0 if measure == "dsc" else float("nan")
                        scores.append(
                            Score(
                                "test2",
                                scan,
                                animal,
                                system,
                                "observer1",
                                cleaned,
                                organ.value,
                                measure,
                                lost if gone else value,
                            )
                        )
        for structure in PAPER_STRUCTURES:
            for system, value in (("3d_fullres", 0.9), ("2d", 0.8), ("observers", 0.85)):
                reference = "observers" if system == "observers" else "consensus"
                scores.append(
                    Score(
                        "test2",
                        scan,
                        animal,
                        system,
                        reference,
                        "no",
                        structure,
                        "ci",
                        value + 0.001 * k,
                    )
                )
        for measure, value in (("preprocess_s", 1.0), ("inference_s", 3.0), ("runtime_s", 14.4)):
            scores.append(Score("test2", scan, animal, "limn", "", "", "", measure, value))
    return scores


def test_asterisks_follow_the_pairs():
    """Worse on all 12 pairs: p = 2 / 2**12. Random differences and the reference: no asterisk."""
    rows = {(row.organ, row.system): row for row in summary.accuracy(synthetic(), "test2", ())}
    assert len(rows) == 12
    for organ in Organ:
        assert not any(cell.star for cell in rows[organ, "3d_fullres"].cells.values())
        assert all(cell.star for cell in rows[organ, "2d"].cells.values())
    found = {
        (d.organ, d.system, d.measure): d.comparison
        for d in summary.differences(synthetic(), "test2", ())
    }
    comparison = found[Organ.HEART, "2d", "dsc"]
    assert comparison.p == pytest.approx(2 / 2**12, abs=1e-12)
    assert (comparison.pairs, comparison.animals, comparison.dropped) == (12, 4, 0)
    assert comparison.low < comparison.mean_difference < comparison.high < 0
    assert not found[Organ.HEART, "aimos", "dsc"].is_significant


def test_means_are_those_of_the_scans():
    """Mean, sample deviation and median as by NumPy; parentheses only where they differ."""
    rows = {(row.organ, row.system): row for row in summary.accuracy(synthetic(), "test2", ())}
    dsc = 0.9 + 0.005 * np.arange(SCANS)
    cell = rows["Heart", "3d_fullres"].cells["dsc"]
    assert (cell.mean, cell.sd, cell.median) == pytest.approx(
        (dsc.mean(), dsc.std(ddof=1), np.median(dsc)), abs=1e-12
    )
    assert "(" not in row_text(rows["Heart", "3d_fullres"], "test2")
    assert row_text(rows["Heart", "2d"], "test2").endswith("2.32 ± 0.00 (0.32 ± 0.00) 2.32*")


def test_blocks_against_slices():
    """Compared by the mean DSC of a scan: 2d is lower on all 12 scans, by 0.0211 on average."""
    plain, cleaned = ("no", "yes")
    found = {
        (own.blocks, own.slices, own.cleaned): own.comparison
        for own in summary.blocks_against_slices(synthetic(), "test2")
    }
    assert set(found) == {
        ("3d_fullres", flat, how) for flat in ("2d", "aimos") for how in (plain, cleaned)
    }
    comparison = found["3d_fullres", "2d", plain]
    wanted = 0.02 * (1 + 0.01 * np.arange(SCANS))
    assert comparison.mean_difference == pytest.approx(wanted.mean(), abs=1e-12)
    assert comparison.p == pytest.approx(2 / 2**12, abs=1e-12)
    assert (comparison.pairs, comparison.animals) == (12, 4)
    (full, flat, _) = summary.overall(synthetic(), "test2")
    dsc = 0.9 + 0.005 * np.arange(SCANS)
    assert (full.mean, full.sd) == pytest.approx((dsc.mean(), dsc.std(ddof=1)), abs=1e-12)
    assert full.cleaned == pytest.approx((full.mean, full.sd), abs=1e-12)
    assert flat.mean == pytest.approx((dsc - wanted).mean(), abs=1e-12)
    # A missed heart counts 0 in the mean of its scan's four organs.
    lost = summary.overall(synthetic(missed=True), "test2")[1]
    assert flat.mean - lost.mean == pytest.approx((dsc - wanted)[5] / 4 / SCANS, abs=1e-12)
    rows = {table.name: table.rows for table in tables.study_tables(synthetic())}
    assert rows["overall-test2"][0] == (
        "nnU-Net", "3d_fullres", "12", "0.928 ± 0.018", "0.928 ± 0.018",
    )  # fmt: skip
    assert rows["3d-against-2d-test2"][0][:6] == (
        "nnU-Net 3d_fullres", "nnU-Net 2d", "no", "12", "4", "+0.021",
    )  # fmt: skip


def test_a_missed_organ_with_and_without(tmp_path):
    """DSC 0 and no distance in one table; in the other the scan is left out for every system."""
    scores = synthetic(missed=True)
    assert summary.missed_scans(scores, "test2") == ("s05",)
    whole = {(r.organ, r.system): r for r in summary.accuracy(scores, "test2", ())}
    part = {(r.organ, r.system): r for r in summary.accuracy(scores, "test2", ("s05",))}
    usual = {(r.organ, r.system): r for r in summary.accuracy(synthetic(), "test2", ("s05",))}
    assert part == usual
    dsc = 0.9 + 0.005 * np.arange(SCANS) - 0.02 * (1 + 0.01 * np.arange(SCANS))
    dsc[5] = 0.0
    assert whole["Heart", "2d"].cells["dsc"].mean == pytest.approx(dsc.mean(), abs=1e-12)
    assert whole["Heart", "2d"].cells["msd_mm"] == part["Heart", "2d"].cells["msd_mm"]
    found = {
        (d.organ, d.system, d.measure): d.comparison
        for d in summary.differences(scores, "test2", ())
    }
    assert (found["Heart", "2d", "msd_mm"].pairs, found["Heart", "2d", "msd_mm"].dropped) == (11, 1)
    assert found["Heart", "2d", "dsc"].pairs == 12
    names = [table.name for table in tables.study_tables(scores)]
    assert {"table2", "table2-without-missed", "table2-differences-without-missed"} <= set(names)
    (third,) = [
        table for table in tables.study_tables(scores) if table.name == "table3-without-missed"
    ]
    assert third.caption.endswith("Left out, because a system missed an organ: s05.")
    cells = {(own.system, own.organ): own.mean for own in summary.conformity(scores)}
    part = {
        (own.system, own.organ): own.mean for own in summary.conformity(scores, [("test2", "s05")])
    }
    assert cells["2d", "Heart"] == pytest.approx(0.8 + 0.001 * 5.5, abs=1e-12)
    assert part["2d", "Heart"] == pytest.approx(0.8 + 0.001 * 61 / 11, abs=1e-12)
    assert "table2-without-missed" not in [table.name for table in tables.study_tables(synthetic())]


def test_an_organ_that_limn_missed_removes_no_scan():
    """Its row has DSC 0; the other systems keep the scan."""
    limn = [replace(own, system="limn") for own in synthetic(missed=True) if own.system == "2d"]
    scores = [*synthetic(), *limn]
    assert summary.missed_scans(scores, "test2") == ()
    (row,) = [
        r for r in summary.accuracy(scores, "test2", ()) if (r.system, r.organ) == HEART_OF_LIMN
    ]
    assert row.cells["dsc"].mean < 0.9
    captions = {table.name: table.caption for table in tables.study_tables(scores)}
    assert "limn's engine missed an organ on s05: DSC 0, no distance." in captions["table2"]


def test_a_system_that_lacks_scans_is_named():
    """Its mean is over other scans than those of the rest: the caption states it."""
    scores = [
        own
        for own in synthetic()
        if (own.system, own.set, own.scan)
        not in {("aimos", "test2", "s03"), ("aimos", "test2", "s04")}
    ]
    assert summary.incomplete_systems(scores, "test2") == {"aimos": 2}
    captions = {table.name: table.caption for table in tables.study_tables(scores)}
    assert "**Not of all scans**: AIMOS UNet-768 lacks scores of 2; its means" in captions["table2"]
    # One organ of one scan is enough. Without the reference nothing is tested.
    gone = ("2d", "test2", "s07", "Heart", "hd95_mm", "no")
    part = [
        own
        for own in synthetic()
        if (own.system, own.set, own.scan, own.organ, own.measure, own.cleaned) != gone
    ]
    assert summary.incomplete_systems(part, "test2") == {"2d": 1}
    alone = [own for own in synthetic() if own.system == "2d"]
    captions = {table.name: table.caption for table in tables.study_tables(alone)}
    assert "no scores of 3d_fullres: nothing was tested" in captions["table2"]
    assert (
        "Not of all scans"
        not in {s.name: s.caption for s in tables.study_tables(synthetic())}["table2"]
    )


def test_best_intermediate_and_worst():
    """Ordered by the mean DSC of the organs, against observer 1."""

    def cases(scores, test_set, system):
        return summary.cases(summary.by_organ(scores, test_set, system))

    assert cases(synthetic(), "test2", "3d_fullres") == {
        "best": "s11",
        "intermediate": "s06",
        "worst": "s00",
    }
    assert cases(synthetic(missed=True), "test2", "2d")["worst"] == "s05"
    assert cases(synthetic(), "test1", "2d") == {}


def test_the_command_writes_every_format(tmp_path, capsys):
    """Markdown, CSV and LaTeX with the paper's lines below the study's, and box plots."""
    path, out = tmp_path / "scores.csv", tmp_path / "out"
    write_scores(path, synthetic())
    assert main.main(["lab", "tables", str(path), str(out)]) == 0
    assert "tables.md" in capsys.readouterr().out
    markdown = (out / "tables.md").read_text(encoding="utf-8")
    assert "| Heart | nnU-Net | 2d | paper | 0.81 ± 0.20 | 0.89\\* |" in markdown
    assert "| Heart | nnU-Net | 2d | here | 0.91 ± 0.02 (0.91 ± 0.02) | 0.91\\* |" in markdown
    assert "| Manual | one biologist | paper | - | - | 2400 |" in markdown
    assert "| limn | engine | here | 1 | 3 | 14 |" in markdown
    assert "zero_method 'wilcox'" in markdown
    assert "| AIMOS | UNet-768, rebuilt | here |" in markdown
    assert "| AIMOS | UNet-768 | paper |" in markdown
    assert "in seconds a scan, on machines that the scores do not name;" in markdown
    with (out / "table2.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["Of"] for line in lines] == ["here", "paper"] * 12
    assert lines[3]["DSC Median"] == "0.89*"
    assert lines[0]["Organ"] == ORGAN_WORDS[Organ.HEART]
    latex = (out / "table2.tex").read_text(encoding="utf-8")
    assert r"Heart & nnU-Net & 3d\_fullres & paper & 0.92 $\pm$ 0.02 & 0.92 &" in latex
    assert latex.count(r"\\") == 1 + 24
    assert r"\textbf{" in (out / "table3.tex").read_text(encoding="utf-8")
    assert "**" not in (out / "table3.csv").read_text(encoding="utf-8")
    for name in ("boxplot-test2.png", "boxplot-ci-test2.png"):
        with Image.open(out / name) as picture:
            colours = picture.convert("RGB").getcolors(1 << 22)
        shown = {colour for count, colour in colours if count > 200}
        assert {(0x44, 0x77, 0xAA), (0x66, 0xCC, 0xEE)} <= shown
    assert not (out / "boxplot-test1.png").exists()


def test_equal_scores_give_equal_files(tmp_path):
    """The order of the lines does not matter."""
    scores = synthetic(missed=True)
    for name, order in (("a", scores), ("b", scores[::-1])):
        write_scores(tmp_path / f"{name}.csv", order)
        tables.write_tables(tmp_path / f"{name}.csv", tmp_path / name, lambda _: None)
    made = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert made == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in made:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("set,scan\ntest1,a\n", "column animal is missing"),
        ("HEAD\ntest1,s,a,2d,observer1,no,Heart,dsc,x\n", "line 2: value 'x' is not a number"),
        (
            "HEAD\n" + "test1,s,a,2d,observer1,no,Heart,dsc,0.5\n" * 2,
            "line 3 repeats line 2",
        ),
        ("HEAD\n", "nothing to show"),
    ],
    ids=["column", "number", "twice", "empty"],
)
def test_scores_that_can_t_be_shown_are_named(text, message, tmp_path):
    """The message names the file, the line and the fault."""
    path = tmp_path / "scores.csv"
    head = "set,scan,animal,system,reference,cleaned,organ,measure,value"
    path.write_text(text.replace("HEAD", head))
    with pytest.raises(ConfigWrong, match=re.escape(message)):
        tables.write_tables(path, tmp_path / "out", lambda _: None)


def test_the_published_numbers_are_packed():
    """The wheel contains everything below src/limn, and so the CSV files."""
    build = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]
    assert set(build["build"]["targets"]["wheel"]) == {"force-include"}, "nothing is left out"
    folder = Path(published.__file__).parent / "paper"
    assert sorted(path.name for path in folder.iterdir()) == [f"table{n}.csv" for n in (1, 2, 3, 4)]
