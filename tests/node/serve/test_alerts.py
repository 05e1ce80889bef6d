"""Each alert against the real metrics of a node in the state in question, by Prometheus itself.

A scene brings a node's data folder, journal and notes into a state and takes the text of its page.
promtool plays it: twenty minutes of a node that is well, then forty of the scene.
"""

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from limn.node.serve.metrics.prometheus import serving
from tests.conftest import REPOSITORY, free_port, require_peer
from tests.support.node import scenes
from tests.support.node.running import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.peer]

RULES = REPOSITORY / "deploy" / "prometheus" / "limn-alerts.yml"
DASHBOARD = REPOSITORY / "deploy" / "grafana" / "limn.json"
METRIC = re.compile(r"\blimn_\w+")
SUFFIX = re.compile(r"_(bucket|sum|count)$")
NODE = {"job": "limn", "instance": "ct-1:9112"}


SCENES: list[tuple[Callable[[scenes.Scene], None], set[str]]] = [
    (scenes.unreachable, {"LimnNodeUnreachable"}),
    (scenes.not_ready, {"LimnNodeNotReady"}),
    (scenes.no_worker, {"LimnNodeNotReady", "LimnNoWorker"}),
    (scenes.worker_host, set()),
    (scenes.destination_down, {"LimnDestinationDown"}),
    (scenes.destination_down_with_nothing_to_send, set()),
    (scenes.destination_slow, set()),
    (scenes.refused, {"LimnStructureSetRefused"}),
    (scenes.held_long, {"LimnScanHeldLong"}),
    (scenes.held_lately, set()),
    (scenes.released_late, set()),
    (scenes.waits, {"LimnScanWaits"}),
    (scenes.runs_long, set()),
    (scenes.queue_grows, {"LimnQueueGrowing"}),
    (scenes.slow, {"LimnDoorToDoorSlow"}),
    (scenes.quick, set()),
    (scenes.restarts, {"LimnRestarting"}),
    (scenes.restarts_over_an_hour, {"LimnRestarting"}),
    (scenes.silent, {"LimnProcessSilent"}),
    (scenes.disk_short, {"LimnDiskShort"}),
    (scenes.disk_full, {"LimnNodeNotReady", "LimnDiskShort"}),
    (scenes.certificate_ends, {"LimnCertificateEnds"}),
    (scenes.contours_drift, {"LimnContoursDrift"}),
    (scenes.journal_damaged, {"LimnNodeNotReady", "LimnJournalDamaged"}),
    (scenes.senders_refused, {"LimnSendersRefused"}),
    (scenes.instance_refused, {"LimnInstancesRefused"}),
    (scenes.board_down, {"LimnBoardDown"}),
    (scenes.shadow_down, {"LimnShadowDown"}),
]


def rules() -> list[dict]:
    """The alerts that limn ships."""
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return group["rules"]


def samples(text: str, up: int) -> dict[str, float]:
    """Each series of a page, as promtool writes it, with the labels that a scrape adds."""
    found = {_series("up", {}): float(up)}
    if up:
        for family in text_string_to_metric_families(text):
            for each in family.samples:
                found[_series(each.name, each.labels)] = each.value
    return found


def _series(name: str, labels: dict[str, str]) -> str:
    every = ", ".join(f"{key}={json.dumps(value)}" for key, value in {**labels, **NODE}.items())
    return f"{name}{{{every}}}"


def played(before: dict[str, float], after: dict[str, float]) -> list[dict[str, str]]:
    """Twenty minutes of one page, then forty of the other."""
    series = []
    for name in {**before, **after}:
        first = f"{before[name]!r}x20" if name in before else "_x20"
        then = f"{after[name]!r}x40" if name in after else "_x40"
        series.append({"series": name, "values": f"{first} {then}"})
    return series


@pytest.mark.parametrize(
    ("scene", "expected"), SCENES, ids=lambda value: getattr(value, "__name__", "")
)
def test_the_alerts_of_a_scene_fire_and_no_other(
    tmp_path: Path, scene: Callable[[scenes.Scene], None], expected: set[str]
) -> None:
    """Prometheus' own promtool evaluates limn's rules on the real page, before and after."""
    promtool = require_peer("promtool")
    with scenes.node(tmp_path / "node") as made:
        before = samples(made.text(), made.up)
        scene(made)
        after = samples(made.text(), made.up)
    firing = 'count by (alertname) (ALERTS{alertstate="firing"})'
    every = [
        {"expr": firing, "eval_time": "19m", "exp_samples": []},
        {
            "expr": firing,
            "eval_time": "30m",
            "exp_samples": [
                {"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(expected)
            ],
        },
    ]
    played_test = {"interval": "1m", "input_series": played(before, after)}
    tests = [played_test | {"promql_expr_test": every}]
    (tmp_path / "test.yml").write_text(
        json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests})
    )
    done = subprocess.run(
        [promtool, "test", "rules", "test.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_scene_and_says_what_to_do() -> None:
    """None is shipped untried; each has a time, a severity and words."""
    tried = set().union(*(expected for _, expected in SCENES))
    assert {each["alert"] for each in rules()} == tried
    for each in rules():
        assert "for" in each, each["alert"]
        assert each["labels"]["severity"] in ("critical", "warning")
        assert set(each["annotations"]) == {"summary", "description"}
        assert len(each["annotations"]["description"]) > 60


def dashboard_queries() -> list[str]:
    """Each expression of the dashboard, for every node."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [each.replace("$instance", ".*") for each in found]


def test_every_metric_that_is_named_is_a_metric_of_the_node(tmp_path: Path) -> None:
    """In rules, dashboard and docs; and the dashboard shows each that the node has."""
    with scenes.node(tmp_path / "node") as made:
        scenes.certificate_ends(made)
        scenes.contours_drift(made)
        families = list(text_string_to_metric_families(made.text()))
    real = {each.name for family in families for each in family.samples}
    shown = {name for query in dashboard_queries() for name in METRIC.findall(query)}
    alerting = {name for each in rules() for name in METRIC.findall(each["expr"])}
    page = (REPOSITORY / "docs" / "monitoring.md").read_text(encoding="utf-8")
    assert shown <= real
    assert alerting <= real
    base = {SUFFIX.sub("", name) for name in real}
    assert {SUFFIX.sub("", name) for name in shown} == base
    assert set(re.findall(r"`(limn_\w+)`", page)) == base


def test_names_and_units_are_those_of_prometheus(tmp_path: Path) -> None:
    """Counters end in _total, times are seconds, sizes bytes, and every family says what it is."""
    with scenes.node(tmp_path / "node") as made:
        text = made.text()
    for line in text.splitlines():
        if line.startswith("# TYPE"):
            _, _, name, kind = line.split()
            assert (kind == "counter") == name.endswith("_total"), name
            assert not re.search(r"_(ms|s|mb|kb|minutes)$", name), name
            assert re.search(rf"^# HELP {name} [A-Z0-9].+\.$", text, re.MULTILINE), name
    assert "M1" not in text, "no animal stands in the metrics"


def test_promtool_finds_no_fault_in_the_page(tmp_path: Path) -> None:
    """Its linter of names, units and help."""
    with scenes.node(tmp_path / "node") as made:
        text = made.text()
    done = subprocess.run(
        [require_peer("promtool"), "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


class Prometheus:
    """A real server that scrapes one page every 200 ms."""

    def __init__(self, folder: Path, target: int) -> None:
        program = require_peer("prometheus")
        self.port = free_port()
        shutil.copy(RULES, folder / RULES.name)
        given = yaml.safe_load((RULES.parent / "prometheus.yml").read_text(encoding="utf-8"))
        given["global"] = {
            "scrape_interval": "200ms",
            "scrape_timeout": "200ms",
            "evaluation_interval": "200ms",
        }
        given["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{target}"]}]
        (folder / "prometheus.yml").write_text(json.dumps(given))
        self.process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                "--storage.tsdb.retention.time=1h",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stderr=(folder / "prometheus.log").open("wb"),
        )

    def get(self, path: str, **query: str) -> dict:
        """The data of one answer of its API."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=5) as reply:
            answer = json.load(reply)
        assert answer["status"] == "success", answer
        return answer["data"]

    def is_up(self) -> bool:
        """Whether it has scraped the page."""
        try:
            found = self.get("query", query='up{job="limn"} == 1')["result"]
        except OSError:
            return False
        return bool(found)

    def alerts(self) -> set[str]:
        """The alerts that are pending or firing."""
        return {each["labels"]["alertname"] for each in self.get("alerts")["alerts"]}


def test_a_real_prometheus_scrapes_a_node_and_knows_its_alerts(tmp_path: Path) -> None:
    """Every rule and every query of the dashboard runs there; an alert begins and ends."""
    with scenes.node(tmp_path / "node") as made, serving(made.config, lambda: made.processes):
        assert made.config.metrics.port is not None
        server = Prometheus(tmp_path, made.config.metrics.port)
        try:
            wait_for(server.is_up, 30)
            for query in dashboard_queries():
                server.get("query", query=query)
            scenes.no_worker(made)
            wait_for(lambda: {"LimnNoWorker", "LimnNodeNotReady"} <= server.alerts(), 20)
            made.config.ready_path.write_text("1\n")
            wait_for(lambda: server.alerts() == set(), 20)
            (group,) = server.get("rules")["groups"]
            assert [each["name"] for each in group["rules"] if each["health"] != "ok"] == []
        finally:
            server.process.terminate()
            server.process.wait()
