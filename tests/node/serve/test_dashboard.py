"""The dashboard keeps the rules of Grafana's own schema (kinds/dashboard/dashboard_kind.cue)."""

import itertools
import json
import re

import pytest

from tests.conftest import REPOSITORY

DASHBOARD = json.loads(
    (REPOSITORY / "deploy" / "grafana" / "limn.json").read_text(encoding="utf-8")
)
PANELS = DASHBOARD["panels"]
# Panels and units of Grafana itself, without a plugin.
TYPES = {"row", "stat", "table", "timeseries"}
UNITS = {"s", "short", "bytes", "percentunit", "d", "none", "cps", "ops"}
VARIABLE = re.compile(r"\$\{?(\w+)")


def test_the_dashboard_as_a_whole():
    """What an import refuses, or silently replaces."""
    assert 8 <= len(DASHBOARD["uid"]) <= 40
    assert isinstance(DASHBOARD["schemaVersion"], int)
    assert "id" not in DASHBOARD, "it would replace another dashboard of the site"
    assert re.fullmatch(r"\d+[smhd]", DASHBOARD["refresh"])
    for each in DASHBOARD["annotations"]["list"]:
        assert each.keys() >= {"name", "datasource", "enable", "iconColor"}


def test_every_variable_that_is_used_is_there():
    """And its type is one of Grafana's."""
    listed = DASHBOARD["templating"]["list"]
    for each in listed:
        assert each["type"] in {"query", "datasource", "custom", "constant", "interval", "textbox"}
        assert each["hide"] in (0, 1, 2)
    used = set(VARIABLE.findall(json.dumps([PANELS, DASHBOARD["annotations"], listed])))
    used -= {"__all", "__rate_interval", "__interval", "__range"}
    assert used == {each["name"] for each in listed}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel(panel):
    """Its type, place, source, queries and thresholds."""
    assert panel["type"] in TYPES
    place = panel["gridPos"]
    assert place["w"] > 0
    assert place["h"] > 0
    assert place["x"] + place["w"] <= 24
    if panel["type"] == "row":
        assert isinstance(panel["collapsed"], bool)
        assert isinstance(panel["panels"], list)
        return
    assert panel["options"] is not None
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    names = [each["refId"] for each in panel["targets"]]
    assert len(names) == len(set(names)) > 0
    for each in panel["targets"]:
        assert each["datasource"] == panel["datasource"]
        if panel["type"] == "table":
            assert (each["format"], each["instant"]) == ("table", True)
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"] in UNITS
    if "thresholds" in defaults:
        assert defaults["thresholds"]["mode"] in {"absolute", "percentage"}
        first, *others = (each["value"] for each in defaults["thresholds"]["steps"])
        assert first is None
        assert others == sorted(others)


def test_no_panel_lies_on_another():
    """Nor has the number of another."""
    assert len({each["id"] for each in PANELS}) == len(PANELS)
    for one, other in itertools.combinations((each["gridPos"] for each in PANELS), 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
