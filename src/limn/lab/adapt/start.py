"""The bundle that goes on: its networks in the form in which they learn, with rows for new organs.

A new organ's row of each head begins as a copy of the background's, a little less likely: a new
organ was background until now, so the features that tell it from other background are near.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from limn.domain.errors import ConfigWrong
from limn.domain.scan import Organ, Role
from limn.lab.train.channels_last import channels_last, with_layout_free_norms
from limn.phantom.anatomy import WHOLE_LABELS
from limn.segment.bundle.bundle import Bundle, open_bundle
from limn.segment.engine.plans import Plan, read_plan
from limn.segment.engine.weights import class_name

_HEAD = re.compile(r"decoder\.seg_layers\.\d+\.(weight|bias)")
# Natural logarithm of how likely a new organ is at first, relative to the background.
NEW_ORGAN_LOGIT = -1.0


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """A bundle and the organs that it shall know.

    Attributes
    ----------
    spacing_mm : of the networks' grid
    letters : the patient axes along which the networks' axes grow
    organs : of the new bundle: the bundle's labels stay, new organs follow
    """

    bundle: Bundle
    plan: Plan
    spacing_mm: tuple[float, float, float]
    letters: str
    organs: Mapping[int, Organ]

    @property
    def new_organs(self) -> tuple[Organ, ...]:
        """The organs that the bundle did not know."""
        known = set(self.bundle.organs.values())
        return tuple(organ for organ in self.organs.values() if organ not in known)


def start_from(folder: Path, site_organs: Sequence[Organ]) -> Start:
    """Open a bundle to go on from.

    Parameters
    ----------
    site_organs : that the site's data have

    Raises
    ------
    BundleUnfit
        If the bundle is damaged.
    ConfigWrong
        If its networks can't learn here, or an organ would be forgotten; the text says why.
    """
    bundle = open_bundle(folder)
    if bundle.previous:
        raise ConfigWrong(_no_start(bundle, "it is the second stage of a cascade"))
    plan = read_plan(bundle)
    across, *within = plan.spacing_mm
    if plan.flat or across is None:
        raise ConfigWrong(_no_start(bundle, "its networks are 2d"))
    taught = {*site_organs, *WHOLE_LABELS.values()}
    if forgotten := [organ for organ in bundle.organs.values() if organ not in taught]:
        msg = (
            f"bundle {bundle.label} knows {', '.join(forgotten)}, which neither the data set nor "
            "the phantoms have: it would be forgotten; contour it in the site's scans too"
        )
        raise ConfigWrong(msg)
    known = set(bundle.organs.values())
    added = [organ for organ in dict.fromkeys(site_organs) if organ not in known]
    organs = dict(bundle.organs) | dict(enumerate(added, start=len(bundle.organs) + 1))
    letters = "".join(bundle.orientation[axis] for axis in plan.transpose)
    start = Start(bundle, plan, (across, within[0], within[1]), letters, organs)
    learning_network(start, bundle.folds[0])
    return start


def refuse_other_names(
    bundle: Bundle, site_organs: Sequence[Organ], site_roles: Mapping[Role, Organ]
) -> None:
    """Refuse an organ that the bundle knows by another name: it would be learnt as a new one.

    Raises
    ------
    ConfigWrong
        Names both.
    """
    plain = {organ.casefold(): organ for organ in bundle.organs.values()}
    roles = {
        organ: bundle.roles[role] for role, organ in site_roles.items() if role in bundle.roles
    }
    for organ in site_organs:
        known = roles.get(organ, plain.get(organ.casefold(), organ))
        if known != organ:
            msg = (
                f"the data set calls {organ} what bundle {bundle.label} calls {known}: it would be "
                "learnt as a new organ beside it; import the data set again with --organs "
                f"{bundle.folder}"
            )
            raise ConfigWrong(msg)


def learning_network(start: Start, fold: int) -> nn.Module:
    """A fold's network with deep supervision and a row for every organ, in the fast layout.

    Raises
    ------
    ConfigWrong
        If it can't be built so, or the weights lack what only a training needs.
    """
    described = start.plan.architecture
    try:
        network: nn.Module = get_network_from_plans(
            class_name(described),
            _arguments(described),
            list(described["_kw_requires_import"]),
            1,
            1 + len(start.organs),
            allow_init=False,
            deep_supervision=True,
        )
        kept = torch.load(start.bundle.checkpoint(fold), map_location="cpu", weights_only=True)
        weights = {name: tensor.float() for name, tensor in kept["network_weights"].items()}
        network.load_state_dict(widened(weights, len(start.new_organs)))
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        why = f"its network can't learn with limn ({' '.join(str(error).split())[:300]})"
        raise ConfigWrong(_no_start(start.bundle, why)) from error
    return channels_last(network)


def widened(weights: Mapping[str, torch.Tensor], more: int) -> dict[str, torch.Tensor]:
    """Weights whose heads have ``more`` rows, each as the background's but less likely."""
    wide = {}
    for name, tensor in weights.items():
        head = _HEAD.fullmatch(name)
        if head and more:
            rows = tensor[:1].repeat(more, *[1] * (tensor.ndim - 1))
            if head[1] == "bias":
                rows = rows + NEW_ORGAN_LOGIT
            tensor = torch.cat([tensor, rows])  # noqa: PLW2901
        wide[name] = tensor
    return wide


def _arguments(described: Mapping[str, Any]) -> dict[str, Any]:
    arguments = dict(described["arch_kwargs"])
    # Other norms stay as they are: only this one is slow in the fast layout.
    instance = str(arguments["norm_op"]).endswith("InstanceNorm3d")
    return with_layout_free_norms(arguments) if instance else arguments


def _no_start(bundle: Bundle, why: str) -> str:
    return (
        f"bundle {bundle.label} can't go on: {why}; limn goes on with 3d networks of one stage "
        "that nnU-Net's plans describe, such as the embedded bundle"
    )
