"""A run goes on where it stopped; its report says what failed, is open and has changed."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from limn.commission import plan, report
from limn.commission.measuring import MeasuredOrgan
from limn.commission.questions import (
    Question,
    collect,
    forget_seen,
    questions_on,
    read_answers,
    seen_values,
)
from limn.commission.record import (
    CommissioningRun,
    RunIdentity,
    StepResult,
    last_report,
    run_in,
    run_to_amend,
)
from limn.commission.tolerances import Tolerances
from limn.domain.errors import ConfigWrong

IDENTITY = RunIdentity(
    limn="2.0",
    bundle="phantom 7",
    bundle_sha256="b" * 64,
    config="site.toml",
    config_sha256="c" * 64,
    plan="p",
    to=(),
)
PLANNED = plan.chosen(["animal-1", "animal-2", "lie-ffp", "mirrored-x", "no-rescale"])


def organ(role: str, roi: str, off: float = 0.0, left_mm: float = 0.0) -> MeasuredOrgan:
    """One that is off its truth by a share."""
    return MeasuredOrgan(
        role=role,
        roi=roi,
        volume_mm3=200.0 * (1.0 + off),
        truth_mm3=200.0,
        dsc=0.95,
        offset_xyz_mm=(0.1, -0.1, 0.2),
        left_mm=left_mm,
        truth_left_mm=left_mm,
    )


ORGANS = (
    organ("heart", "Heart", 0.02),
    organ("cord", "SpinalCord"),
    replace(organ("lung_r", "Lung_R", 0.01, left_mm=-4.0), truth_mm3=260.0, volume_mm3=261.0),
    organ("lung_l", "Lung_L", 0.01, left_mm=4.0),
)


def result(step: plan.PlannedStep, **changes: object) -> StepResult:
    """What a good node makes of a step."""
    outcome = {plan.Expected.HELD: "held", plan.Expected.REFUSED: "refused"}
    values = {
        "name": step.name,
        "series_instance_uid": f"2.25.{len(step.name)}",
        "outcome": outcome.get(step.expected, "delivered"),
        "scan": "scan-00001",
        "light": "green",
        "flags": "demo-bundle",
        "reason": "",
        "sent": 150,
        "taken": 150,
        "times": {"door_to_door_s": 9.5, "inference_s": 7.0, "settle_s": 0.5},
        "device": "a processor",
        "organs": ORGANS,
        "voxel_mm": 0.2,
        "faults": (),
    }
    return StepResult(**{**values, **changes})  # type: ignore[arg-type]


def finished(
    out: Path, identity: RunIdentity = IDENTITY, **changes: StepResult
) -> tuple[CommissioningRun, dict]:
    """A run with every step and its report."""
    run, _ = run_in(out, identity)
    for step in PLANNED:
        run.write(changes.get(step.name.replace("-", "_"), result(step)))
        Image.new("RGB", (600, 400)).save(run.picture(step.name))
    before = last_report(out, run.folder, [step.name for step in PLANNED])
    made = report.build(run, PLANNED, run.results(), Tolerances(), {}, before)
    report.write(run, made, PLANNED)
    return run, made


def test_a_killed_run_goes_on_and_a_finished_one_does_not(tmp_path: Path) -> None:
    """With another limn, bundle, config or plan a new run begins."""
    first, goes_on = run_in(tmp_path, IDENTITY)
    assert not goes_on
    assert not first.mark_sent("animal-1")
    first.write(result(PLANNED[0]))
    again, goes_on = run_in(tmp_path, IDENTITY)
    assert goes_on
    assert (again.folder, again.occasion) == (first.folder, first.occasion)
    assert again.mark_sent("animal-1"), "a step that a killed run began is known as such"
    assert again.results() == {"animal-1": result(PLANNED[0])}
    (first.folder / "report.json").write_text("{}")
    # Two runs may begin within one second in a test alone.
    first.folder.rename(tmp_path / "run-20260101-000000")
    assert not run_in(tmp_path, IDENTITY)[1]


def test_another_folder_is_left_alone(tmp_path: Path) -> None:
    """A person may name the wrong one."""
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(ConfigWrong, match="holds something other than a commissioning"):
        run_in(tmp_path, IDENTITY)


def test_a_partial_plan_that_passes_is_not_complete(tmp_path: Path) -> None:
    """Nothing failed, and the report says what was left out."""
    _, made = finished(tmp_path)
    assert made["verdict"]["word"] == report.INCOMPLETE
    assert "phantoms of the plan were left out (--only)" in made["verdict"]["lines"][1]


def test_a_whole_plan_passes(tmp_path: Path) -> None:
    """And the page says that no planning system was part of it."""
    run, _ = run_in(tmp_path, IDENTITY)
    results = {step.name: result(step) for step in plan.steps()}
    made = report.build(run, plan.steps(), results, Tolerances(), {}, None)
    assert made["verdict"]["word"] == report.PASSED
    assert made["verdict"]["lines"][1].startswith("The node was tried up to its door.")
    assert made["times"]["median_s"] == 9.5
    assert made["differences"] is None


def test_a_plan_without_sides_or_times_is_not_complete(tmp_path: Path) -> None:
    """A bundle without lungs, or runs that were all interrupted, pass nothing by silence."""
    run, _ = run_in(tmp_path, IDENTITY)
    results = {step.name: result(step, organs=ORGANS[:2], times={}) for step in plan.steps()}
    made = report.build(run, plan.steps(), results, Tolerances(), {}, None)
    assert made["verdict"]["word"] == report.INCOMPLETE
    assert made["verdict"]["lines"][1:] == [
        "Left and right were not told: the node does not draw both lungs.",
        "No time from door to door was measured.",
    ]


def test_exchanged_sides_head_the_report(tmp_path: Path) -> None:
    """The first sentence says it in capitals."""
    why = "Left and right are exchanged in what tps returned: Lung_R lies 8.0 mm to the LEFT"
    _, made = finished(tmp_path, lie_ffp=result(PLANNED[2], faults=(why,)))
    assert made["verdict"]["word"] == report.FAILED
    assert made["verdict"]["lines"][0].startswith("FAILED: LEFT AND RIGHT ARE EXCHANGED (1 time)")
    assert made["verdict"]["lines"][1] == f"lie-ffp (COMMISSIONING-LIE-FFP): {why}"


def test_a_mean_that_is_off_fails_although_each_animal_passes(tmp_path: Path) -> None:
    """Chance does not move all animals to one side."""
    large = (organ("heart", "Heart", 0.18), *ORGANS[1:])
    changes = {
        name.replace("-", "_"): result(step, organs=large)
        for step in PLANNED[:2]
        for name in [step.name]
    }
    _, made = finished(tmp_path, **changes)
    assert made["verdict"]["lines"][1] == (
        "Heart is +18.0 % off the truth in the mean of 2 animals; 15 % are allowed."
    )


def test_the_next_report_shows_what_has_changed(tmp_path: Path) -> None:
    """Version, time, volume, place, verdict; and nothing else."""
    run, _ = finished(tmp_path)
    run.folder.rename(tmp_path / "run-20260101-000000")
    slow = {"door_to_door_s": 30.0, "inference_s": 27.0, "settle_s": 0.5}
    moved = (replace(ORGANS[0], volume_mm3=210.0, offset_xyz_mm=(0.1, -0.1, 0.5)), *ORGANS[1:])
    new = replace(IDENTITY, limn="2.1")
    _, made = finished(
        tmp_path,
        new,
        animal_1=result(PLANNED[0], times=slow),
        animal_2=result(PLANNED[1], times=slow),
        lie_ffp=result(PLANNED[2], organs=moved, light="amber"),
    )
    assert [(each["what"], each["before"], each["now"]) for each in made["differences"]] == [
        ("limn", "2.0", "2.1"),
        ("median from door to door (+216 %)", "9.5 s", "30.0 s"),
        ("lie-ffp: light", "green", "amber"),
        ("lie-ffp: Heart, volume", "204.0 mm3", "210.0 mm3"),
        (
            "lie-ffp: Heart, middle against the truth, x y z mm",
            "+0.10, -0.10, +0.20",
            "+0.10, -0.10, +0.50",
        ),
    ]
    assert any("was 9.5 s in the last report" in line for line in made["verdict"]["lines"])


def test_a_few_phantoms_are_compared_with_the_whole_run_and_not_the_other_way(
    tmp_path: Path,
) -> None:
    """What a monthly run leaves out is one line; the next whole run looks past it."""
    run, whole = finished(tmp_path)
    run.folder.rename(tmp_path / "run-20260101-000000")
    few = replace(IDENTITY, plan="few")
    month, _ = run_in(tmp_path, few)
    month.write(result(PLANNED[0]))
    names = [PLANNED[0].name]
    before = last_report(tmp_path, month.folder, names)
    made = report.build(month, PLANNED[:1], month.results(), Tolerances(), {}, before)
    report.write(month, made, PLANNED[:1])
    assert [(each["what"], each["before"]) for each in made["differences"]] == [
        ("phantoms not sent this time: 4", "animal-2, lie-ffp, mirrored-x, no-rescale")
    ]
    month.folder.rename(tmp_path / "run-20260201-000000")
    every = [step.name for step in PLANNED]
    assert last_report(tmp_path, tmp_path / "run-20260301-000000", every) == whole
    assert last_report(tmp_path, tmp_path / "run-20260301-000000", names) == made
    assert last_report(tmp_path, tmp_path / "run-20260301-000000", [*every, "new"]) == made
    assert last_report(tmp_path, tmp_path / "run-20260101-000000", every) is None


class _Reads(HTMLParser):
    """What a page loads from elsewhere, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [
            str(value)
            for name, value in attrs
            if name in ("src", "href") and not str(value).startswith("data:image/jpeg;base64,")
        ]
        assert tag != "script"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_stands_alone(tmp_path: Path) -> None:
    """It loads nothing, runs nothing, escapes what others wrote, and the JSON says the same."""
    run, made = finished(tmp_path, lie_ffp=result(PLANNED[2], reason="<b>", outcome="refused"))
    text = (run.folder / "report.html").read_text()
    page = _Reads()
    page.feed(text)
    assert page.loaded == []
    assert "b" * 64 in page.text
    assert "name, date, signature" in page.text
    assert "<b>" in page.text
    assert "<b>" not in text
    assert json.loads((run.folder / "report.json").read_text()) == made


def test_what_nobody_answers_is_open_and_never_guessed(tmp_path: Path) -> None:
    """A planning system was part of it: nothing came back, nobody looked."""
    _, made = finished(tmp_path, replace(IDENTITY, to=("tps",)))
    assert made["verdict"]["word"] == report.INCOMPLETE
    lines = made["verdict"]["lines"]
    assert "The planning system returned nothing of animal-1, animal-2, lie-ffp." in lines
    assert "12 questions on the planning system were not answered." in lines


def test_a_report_is_written_anew_and_the_earlier_one_kept(tmp_path: Path) -> None:
    """Of the last run of the same plan; by the tolerances of its steps alone."""
    with pytest.raises(ConfigWrong, match="has no report of this limn"):
        run_to_amend(tmp_path, IDENTITY, Tolerances(), "--amend")
    first, made = finished(tmp_path, replace(IDENTITY, to=("tps",)))
    assert "the same command with --amend writes" in made["verdict"]["lines"][-1]
    assert made["run"]["earlier_reports"] == []
    run = run_to_amend(tmp_path, first.identity, Tolerances(), "--amend")
    assert run.results() == first.results()
    run.set_report_aside()
    again = report.build(run, PLANNED, run.results(), Tolerances(), {}, None)
    page = report.write(run, again, PLANNED)
    assert again["run"]["earlier_reports"] == ["report-1.html"]
    assert "before: report-1.html" in page.read_text()
    assert json.loads((run.folder / "report-1.json").read_text()) == made
    with pytest.raises(ConfigWrong, match="measured by other tolerances"):
        run_to_amend(tmp_path, first.identity, Tolerances(position_mm=1.0), "--amend")
    run.set_report_aside()
    with pytest.raises(ConfigWrong, match="the same command without --again goes on with this run"):
        run_to_amend(tmp_path, first.identity, Tolerances(), "--again")


def test_a_step_is_sent_again_alone_and_what_it_gave_first_stays(tmp_path: Path) -> None:
    """As another phantom, under its name; the report says so whatever it gives."""
    why = "The node said nothing of it in time."
    run, made = finished(tmp_path, animal_2=result(PLANNED[1], outcome="lost", faults=(why,)))
    assert made["verdict"]["lines"][2].startswith("Once the cause is mended, the same command with")
    assert run.occasion_of("animal-2") == run.occasion
    run.set_report_aside()
    run.set_result_aside("animal-2")
    assert {step.name for step in PLANNED} - set(run.results()) == {"animal-2"}
    assert run.occasion_of("animal-2") == f"{run.occasion}-2"
    assert run.occasion_of("animal-1") == run.occasion
    again, goes_on = run_in(tmp_path, IDENTITY)
    assert (again.folder, goes_on) == (run.folder, True), "killed now, it goes on as any run"
    assert not again.mark_sent("animal-2"), "the new phantom was not sent before"
    run.write(result(PLANNED[1]))
    made = report.build(run, PLANNED, run.results(), Tolerances(), {}, None)
    page = report.write(run, made, PLANNED).read_text()
    assert made["verdict"]["word"] == report.INCOMPLETE
    assert "animal-2 was sent again; before: FAIL." in made["verdict"]["lines"]
    assert f"sent again; before: FAIL, lost, scan-00001; {why}" in page
    (entry,) = [each for each in made["steps"] if each["before"]]
    assert (entry["name"], entry["word"]) == ("animal-2", "pass")
    run.set_result_aside("animal-2")
    assert run.occasion_of("animal-2") == f"{run.occasion}-3"
    assert [each.passed for each in run.results_before("animal-2")] == [False, True]


def test_sides_that_are_exchanged_are_not_sent_again_first(tmp_path: Path) -> None:
    """Nobody should try until it passes."""
    why = "Left and right are exchanged in what tps returned: Lung_R lies 8.0 mm to the LEFT"
    _, made = finished(tmp_path, lie_ffp=result(PLANNED[2], faults=(why,)))
    assert not any("--again" in line for line in made["verdict"]["lines"])


def test_what_was_seen_of_a_step_is_asked_again_with_it(tmp_path: Path) -> None:
    """The planning system gets another phantom; who signs stays."""
    kept = tmp_path / "answers.json"
    kept.write_text('{"seen.animal-1.edge_mm": 0.0, "seen.animal-11.edge_mm": 1, "signed.by": "A"}')
    forget_seen(kept, ["animal-1"])
    assert json.loads(kept.read_text()) == {"seen.animal-11.edge_mm": 1, "signed.by": "A"}
    forget_seen(tmp_path / "none.json", ["animal-1"])


def test_answers_are_asked_once_and_read_from_a_file(tmp_path: Path) -> None:
    """The file is first, then what an earlier run kept, then a person, who may leave one open."""
    path = tmp_path / "answers.toml"
    path.write_text('[seen.animal-1]\nHeart_mm3 = 204\nlarger_lung = "Right"\n')
    questions = questions_on("animal-1", result(PLANNED[0]))
    asked: list[str] = []

    def ask(text: str) -> str:
        asked.append(text)
        return {0: "n", 1: "12,5"}.get(len(asked) - 1, "")

    kept = tmp_path / "answers.json"
    answers = collect(questions, read_answers(path), kept, ask)
    assert answers == {
        "seen.animal-1.Heart_mm3": 204.0,
        "seen.animal-1.SpinalCord_mm3": 12.5,
        "seen.animal-1.larger_lung": "right",
    }
    assert len(asked) == 5, "one was wrong and asked again, three are left open"
    assert collect(questions, {}, kept, None) == answers


def test_a_bundle_without_lungs_is_not_asked_for_them() -> None:
    """Nobody can say on which side a planning system shows the larger one of none."""
    heart = result(PLANNED[0], organs=ORGANS[:1])
    asked = {each.key: each.text for each in questions_on("animal-1", heart)}
    assert list(asked) == ["seen.animal-1.Heart_mm3", "seen.animal-1.edge_mm"]
    assert asked["seen.animal-1.edge_mm"].endswith("from the edge of Heart in the image, mm")
    seen = seen_values("animal-1", heart, {"seen.animal-1.edge_mm": 0.0}, Tolerances())
    assert [each.answer for each in seen] == ["not answered", "0 mm"]


def test_a_wrong_answer_in_the_file_is_named(tmp_path: Path) -> None:
    """As is a table that nobody asks for."""
    path = tmp_path / "answers.toml"
    path.write_text('[seen.animal-1]\nlarger_lung = "up"\n')
    question = Question("seen.animal-1.larger_lung", "which", "side")
    with pytest.raises(ConfigWrong, match=r"larger_lung: 'up': left or right expected"):
        collect([question], read_answers(path), tmp_path / "kept.json", None)
    path.write_text("[sen]\n")
    with pytest.raises(ConfigWrong, match="sen: tables are planning_system, signed"):
        read_answers(path)


def test_what_a_physicist_saw_is_compared_with_what_was_sent() -> None:
    """A volume within 5 mm3 passes; the larger lung on the other side ends it."""
    answers = {
        "seen.animal-1.Heart_mm3": 206.0,
        "seen.animal-1.Lung_L_mm3": 150.0,
        "seen.animal-1.larger_lung": "left",
        "seen.animal-1.edge_mm": 0.3,
    }
    seen = seen_values("animal-1", result(PLANNED[0]), answers, Tolerances())
    by_answer = {each.answer: each.fault for each in seen}
    assert by_answer["206 mm3"] == ""
    assert "shows 150 mm3 for Lung_L, and limn sent 202.0" in by_answer["150 mm3"]
    assert "left and right are exchanged in the planning system" in by_answer["left"]
    assert "0.3 mm beside the edge" in by_answer["0.3 mm"]
    assert sum(each.answer == "not answered" for each in seen) == 2
