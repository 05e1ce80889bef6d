"""The training loop: what it keeps, what it goes on from, and what it refuses."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from limn.domain.errors import ConfigWrong
from limn.lab.train import loop
from limn.lab.train.loop import LoopSettings, LossTable, TrainingLoop


class Stopped(Exception):
    """The process ended here."""


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """Reports and saves after few steps, at different ones."""
    monkeypatch.setattr(loop, "REPORTED_EVERY", 4)
    monkeypatch.setattr(loop, "SAVED_EVERY", 3)


def settings_in(folder: Path, **changes) -> LoopSettings:
    """Ten steps."""
    settings = LoopSettings(
        name="line",
        steps=10,
        checkpoint=folder / "line.pt",
        losses=LossTable(folder / "loss.csv", "line"),
        clip=1.0,
        average=0.9,
        smoothing=0.9,
        belongs_to={"seed": 1, "sizes": (2, 3)},
    )
    return replace(settings, **changes)


def learn(settings: LoopSettings, stop_at: int = -1) -> tuple[dict[str, torch.Tensor], list[str]]:
    """A line is fitted to points that follow from the step; the weights and the reports."""
    torch.manual_seed(0)
    network = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(network.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / settings.steps)
    training = TrainingLoop(settings, network, optimizer, schedule)

    def loss_of(step: int) -> torch.Tensor:
        if step == stop_at:
            raise Stopped
        x = torch.full((1, 1), float(step % 4))
        return (network(x) - 2 * x - 1).square().mean()

    lines: list[str] = []
    return training.run(loss_of, lines.append), lines


def rows(path: Path) -> list[list[str]]:
    """Of a table of losses."""
    return list(csv.reader(path.read_text(encoding="utf-8").splitlines()))


@pytest.mark.parametrize("changes", [{}, {"average": None, "smoothing": None}])
def test_a_killed_training_ends_as_an_unbroken_one(tmp_path, changes):
    """Stopped after a report and before the next checkpoint: weights and losses are the same."""
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    whole = learn(settings_in(tmp_path / "whole", **changes))
    with pytest.raises(Stopped):
        learn(settings_in(tmp_path / "broken", **changes), stop_at=8)
    assert [row[1] for row in rows(tmp_path / "broken" / "loss.csv")] == ["4", "8"]
    broken = learn(settings_in(tmp_path / "broken", **changes))
    assert [line.split(" loss ")[0] for line in broken[1]] == ["line step 8/10", "line step 10/10"]
    for name, tensor in whole[0].items():
        assert torch.equal(tensor, broken[0][name])
    kept = [[row[:3] for row in rows(tmp_path / name / "loss.csv")] for name in ("whole", "broken")]
    assert kept[0] == kept[1]
    assert [row[1] for row in kept[0]] == ["4", "8", "10"]
    assert {own.name for own in (tmp_path / "whole").iterdir()} == {"line.pt", "loss.csv"}


def test_a_finished_training_gives_its_weights_again(tmp_path):
    """Without a step and without a report."""
    done, _ = learn(settings_in(tmp_path))
    again, lines = learn(settings_in(tmp_path), stop_at=0)
    assert lines == []
    assert torch.equal(again["weight"], done["weight"])


def test_the_average_follows_the_weights(tmp_path):
    """It lags behind them; without one the weights themselves come out."""
    for name in ("average", "none"):
        (tmp_path / name).mkdir()
    averaged, _ = learn(settings_in(tmp_path / "average"))
    last, _ = learn(settings_in(tmp_path / "none", average=None))
    assert abs(averaged["weight"].item() - 2) > abs(last["weight"].item() - 2)


def test_the_mean_loss_is_that_since_the_last_report(tmp_path):
    """Twelve losses that are their steps' numbers: 0 to 3, 4 to 7, 8 to 11."""
    network = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), 0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    table = LossTable(tmp_path / "loss.csv")
    settings = settings_in(tmp_path, steps=12, losses=table, smoothing=None)
    TrainingLoop(settings, network, optimizer, schedule).run(
        lambda step: 0 * network.weight.sum() + step, lambda _: None
    )
    assert rows(table.path) == [["4", "1.5000"], ["8", "5.5000"], ["12", "9.5000"]]


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    """It is named by its folder, and stays as it was."""
    learn(settings_in(tmp_path))
    kept = (tmp_path / "line.pt").read_bytes()
    with pytest.raises(ConfigWrong, match=f"{tmp_path.name} belongs to other settings"):
        learn(settings_in(tmp_path, belongs_to={"seed": 2, "sizes": (2, 3)}))
    assert (tmp_path / "line.pt").read_bytes() == kept


@pytest.mark.parametrize("older", ["onlooker", "aimos"])
def test_older_checkpoints_are_gone_on_with(tmp_path, older):
    """The onlooker's weights had another name; AIMOS kept neither schedule nor average nor loss."""
    changes = {"belongs_to": {}} if older == "onlooker" else {"average": None, "smoothing": None}
    for name in ("whole", "old"):
        (tmp_path / name).mkdir()
    whole, _ = learn(settings_in(tmp_path / "whole", **changes))
    with pytest.raises(Stopped):
        learn(settings_in(tmp_path / "old", **changes), stop_at=7)
    path = tmp_path / "old" / "line.pt"
    kept = torch.load(path, weights_only=True)
    if older == "onlooker":
        kept["onlooker"] = kept.pop("network")
        del kept["begun"]
    else:
        for name in ("schedule", "averaged", "loss"):
            del kept[name]
        del kept["optimizer"]["param_groups"][0]["initial_lr"]
    torch.save(kept, path)
    again, _ = learn(settings_in(tmp_path / "old", **changes))
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name])
