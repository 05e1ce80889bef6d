"""Builds networks from plans and fills them with weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from torch import nn

from limn.domain.errors import BundleUnfit
from limn.segment.bundle.plans_json import PLAIN_UNET

Weights: TypeAlias = dict[str, torch.Tensor]
_Net = TypeVar("_Net", bound=nn.Module)

UNEVEN = "limn.segment.engine.uneven_unet.UnevenUNet"
# Bundles of an earlier version of limn name the class by its module of that time.
_FORMER_NAMES = {"limn.segment.uneven_unet.UnevenUNet": UNEVEN}
# A name in plans.json is imported and called, so only these are allowed.
_ARCHITECTURES = (
    PLAIN_UNET,
    "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
    UNEVEN,
)
_BUILDING_BLOCKS = ("torch.nn.",)


def class_name(architecture: Mapping[str, Any]) -> str:
    """The present name of the network's class."""
    named = str(architecture["network_class_name"])
    return _FORMER_NAMES.get(named, named)


def build(architecture: Mapping[str, Any], channels: int, classes: int) -> nn.Module:
    """Build the network of the plans, without weights.

    Raises
    ------
    BundleUnfit
        If the plans name anything else than a known network and torch's own layers.
    """
    # Imported here: it takes seconds, and only processes that infer need it.
    from nnunetv2.utilities.get_network_from_plans import (  # noqa: PLC0415
        get_network_from_plans,
    )

    try:
        named = class_name(architecture)
        described = dict(architecture["arch_kwargs"])
        imported = list(architecture["_kw_requires_import"])
        if named not in _ARCHITECTURES:
            msg = f"plans.json names the network {named!r}; limn knows {', '.join(_ARCHITECTURES)}"
            raise BundleUnfit(msg)
        for key in imported:
            if described[key] is not None and not str(described[key]).startswith(_BUILDING_BLOCKS):
                msg = f"plans.json names {described[key]!r} as {key}; limn knows torch's own layers"
                raise BundleUnfit(msg)
        network: nn.Module = get_network_from_plans(
            named, described, imported, channels, classes, allow_init=False, deep_supervision=False
        )
    except (
        AssertionError,
        AttributeError,
        KeyError,
        MemoryError,
        OverflowError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        msg = f"plans.json describes no network: {error!r}"
        raise BundleUnfit(msg) from error
    return network.eval()


def fill(network: nn.Module, weights: Mapping[str, torch.Tensor], source: Path | str) -> nn.Module:
    """Load weights into a network; their names and shapes must match one by one.

    Raises
    ------
    BundleUnfit
        If they do not match.
    """
    try:
        network.load_state_dict(dict(weights))
    except (RuntimeError, AttributeError, TypeError) as error:
        detail = " ".join(str(error).split())
        msg = f"{source} does not fit its plans: {detail[:400]}"
        raise BundleUnfit(msg) from error
    return network.eval()


def with_weights(network: _Net, path: Path) -> _Net:
    """A network of limn's own, with the weights (of any precision) of a verified bundle."""
    kept = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict({name: tensor.float() for name, tensor in kept.items()})
    return network


def stored_once(weights: Mapping[str, torch.Tensor]) -> Weights:
    """The same weights with one tensor where several hold the same values.

    A network names its encoder twice and most layers three times. torch writes a tensor once if
    several names share it.
    """
    kept: dict[tuple[torch.dtype, torch.Size, bytes], torch.Tensor] = {}
    packed = {}
    for name, tensor in weights.items():
        # A clone, because torch would save the whole storage of a view.
        own = tensor.detach().cpu().contiguous().clone()
        digest = hashlib.sha256(own.reshape(-1).view(torch.uint8).numpy().tobytes()).digest()
        packed[name] = kept.setdefault((own.dtype, own.shape, digest), own)
    return packed


def save_fold(path: Path, weights: Mapping[str, torch.Tensor], configuration: str) -> None:
    """Write ``checkpoint_final.pth`` as nnunetv2 reads it; what only training needs is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = {
        "network_weights": stored_once(weights),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": configuration},
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(checkpoint, path)
