"""The splits and the seeds that nnunetv2 gets."""

from types import SimpleNamespace

import torch
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgeneratorsv2.transforms.nnunet.random_binary_operator import (
    ApplyRandomBinaryOperatorTransform,
)
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from limn.lab.data.dataset import Entry
from limn.lab.systems.nnunet import ShortTrainer, splits


def scan(animal, fold):
    """A scan that trains."""
    empty = dict.fromkeys(Entry.__dataclass_fields__, "")
    return Entry(**empty | {"scan": f"{animal}-t0", "animal": animal, "fold": str(fold)})


def test_a_fold_stands_where_nnunetv2_looks_for_it():
    """Folds are at their own numbers, beyond nine and after a gap; no animal is on both sides."""
    entries = [scan(f"a{fold}", fold) for fold in (0, 2, 10)]
    found = splits(entries)
    assert len(found) == 11
    for own in entries:
        place = found[int(own.fold)]
        assert place["val"] == [own.scan]
        assert sorted(place["train"]) == sorted(e.scan for e in entries if e != own)


def test_an_epoch_of_a_cascade_draws_alike_whatever_was_drawn_before(monkeypatch):
    """nnU-Net's transforms shuffle a list in place; a resumed fold lacks its history."""
    monkeypatch.setattr(nnUNetTrainer, "on_epoch_start", lambda self: None)
    trainer = ShortTrainer.__new__(ShortTrainer)
    trainer.fold, trainer.current_epoch = 1, 3
    transform = ApplyRandomBinaryOperatorTransform(channel_idx=[1, 2, 3, 4], p_per_label=0.5)
    loader = SimpleNamespace(transforms=ComposeTransforms([RandomTransform(transform)]))
    trainer.dataloader_train = SingleThreadedAugmenter(loader, None)
    drawn = []
    for before in range(3):
        for _ in range(before):
            transform.get_parameters(image=torch.zeros(5, 4, 4, 4))
        trainer.on_epoch_start()
        drawn.append([transform.get_parameters(image=torch.zeros(5, 4, 4, 4)) for _ in range(4)])
    assert str(drawn[0]) == str(drawn[1]) == str(drawn[2])
    assert len({str(each) for each in drawn[0]}) > 1
