"""Ready, degraded or not ready: each reason alone, as word and sentence, and the HTTP status."""

import json
import time
import urllib.error
import urllib.request

import pytest

from limn.node.serve import health as health_module
from limn.node.serve.health import DEGRADING, Cause, Health, NodeState, state_of
from limn.node.serve.metrics.prometheus import serving
from tests.support.node import scenes


@pytest.fixture
def made(tmp_path):
    """A node that is well."""
    with scenes.node(tmp_path / "node") as scene:
        yield scene


def health(scene):
    """What the page would say."""
    found = Health(scene.config, lambda: scene.processes).reasons()
    return state_of(found), [(each.cause, each.text) for each in found]


DEGRADED = [
    (scenes.destination_down, Cause.DESTINATION_DOWN, "tps has taken nothing for 15 min, and 1 "),
    (scenes.held_long, Cause.HELD_LONG, "a structure set has been held for 17 min: a person must"),
    (scenes.restarts_over_an_hour, Cause.PROCESS_RESTARTS, "engine has ended 3 times or more"),
    (scenes.silent, Cause.THREAD_SILENT, "courier to tps has given no sign of life for 10"),
    (scenes.disk_short, Cause.DISK_SHORT, "new associations are refused (receive.refuse_below"),
    (scenes.certificate_ends, Cause.CERTIFICATE_ENDS, "engine.tls_dir/cert.pem: certificate "),
    (scenes.contours_drift, Cause.CONTOURS_DRIFT, "CT1, Heart: the last 20 contours that came"),
]


@pytest.mark.parametrize(("scene", "cause", "words"), DEGRADED)
def test_a_node_that_works_is_degraded(made, scene, cause, words):
    """One reason, which a person should look at; scans are contoured all the same."""
    assert health(made) == (NodeState.READY, [])
    scene(made)
    state, reasons = health(made)
    assert state is NodeState.DEGRADED
    ((found, text),) = reasons
    assert found is cause
    assert words in text


@pytest.mark.parametrize(
    ("scene", "cause"),
    [(scenes.board_down, Cause.BOARD_DOWN), (scenes.shadow_down, Cause.SHADOW_DOWN)],
)
def test_a_board_or_a_shadow_that_is_down_keeps_no_scan(made, scene, cause):
    """It does not run, and ends again and again: two sentences of one cause."""
    scene(made)
    state, reasons = health(made)
    assert state is NodeState.DEGRADED
    assert {found for found, _ in reasons} == {cause}
    assert len(reasons) == 2


@pytest.mark.parametrize(
    ("scene", "cause"),
    [
        (scenes.not_ready, Cause.PROCESS_DOWN),
        (scenes.no_worker, Cause.NO_WORKER),
        (scenes.disk_full, Cause.DISK_FULL),
        (scenes.journal_damaged, Cause.JOURNAL_DAMAGED),
    ],
)
def test_a_node_that_would_not_contour_is_not_ready(made, scene, cause):
    """Whatever else is degraded stands below."""
    scenes.held_long(made)
    scene(made)
    state, reasons = health(made)
    assert state is NodeState.NOT_READY
    assert reasons[0][0] is cause


@pytest.mark.parametrize(
    "scene",
    [
        scenes.destination_slow,
        scenes.destination_down_with_nothing_to_send,
        scenes.held_lately,
        scenes.released_late,
        scenes.runs_long,
        scenes.worker_host,
    ],
)
def test_what_is_usual_degrades_nothing(made, scene):
    """No wolf is cried."""
    scene(made)
    assert health(made) == (NodeState.READY, [])


def test_the_site_sets_the_limits(made):
    """`[health]` in its config."""
    scenes.destination_slow(made)
    scenes.held_lately(made)
    limits = made.config.health.model_copy(
        update={"destination_limit_s": 60.0, "held_limit_s": 300.0}
    )
    made.config = made.config.model_copy(update={"health": limits})
    assert [cause for cause, _ in health(made)[1]] == [Cause.DESTINATION_DOWN, Cause.HELD_LONG]


def test_a_destination_that_answers_again_is_well(made):
    """At its next answer, whatever waits behind."""
    scenes.destination_down(made)
    assert health(made)[0] is NodeState.DEGRADED
    scenes.answered(made, "tps", "", "0x0000, success")
    assert health(made) == (NodeState.READY, [])


def page(scene):
    """Status and answer of the health page."""
    url = f"http://127.0.0.1:{scene.config.metrics.port}/health"
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_probe_keeps_a_degraded_node_and_ends_one_that_is_not_ready(made):
    """200 with the reasons, 503 with the reasons; words for programs, sentences for people."""
    scenes.held_long(made)
    with serving(made.config, lambda: made.processes):
        status, answer = page(made)
        assert (status, answer["ok"], answer["state"]) == (200, True, "degraded")
        (cause,) = answer["causes"]
        assert (cause["cause"], cause["state"]) == ("held-long", "degraded")
        assert answer["reasons"] == [cause["text"]]
        scenes.no_worker(made)
        status, answer = page(made)
    assert (status, answer["ok"], answer["state"]) == (503, False, "not ready")
    assert [each["cause"] for each in answer["causes"]] == ["no-worker", "held-long"]
    assert answer["reasons"][0] == "no warm worker"


def test_each_cause_is_tried_here_or_with_the_page():
    """Those of a process stand in test_prometheus."""
    tried = {cause for _, cause, _ in DEGRADED} | {Cause.BOARD_DOWN, Cause.SHADOW_DOWN}
    assert tried == DEGRADING


def test_certificates_are_read_every_ten_minutes(made, monkeypatch):
    """Not at each scrape."""
    reads = []
    monkeypatch.setattr(health_module, "given_certificates", lambda config: reads.append(1) or ())
    looking = Health(made.config, lambda: made.processes)
    began_s = time.monotonic()
    for seconds in (0, 15, health_module.CERTIFICATES_EVERY_S + 1):
        monkeypatch.setattr(time, "monotonic", lambda later_s=seconds: began_s + later_s)
        looking.reasons()
    assert len(reads) == 2
