"""Where finetuning begins, if not at a fresh head: at a model's head, on the network it sits on.

Covers no training (``finetuning``) and no model files (``heads``).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tlcache.core.errors import ModelError, OptionError
from tlcache.heads.model import Model
from tlcache.networks.network import restore_network
from tlcache.networks.scoring import check_trunk
from tlcache.trunks.load import Trunk, load_trunk

_UNKNOWN = "unknown"  # what a head that was trained on a snapshot says of its trunk's weights


def trunk_of(model: Model, weights: str | None = None, memo: Path | None = None) -> Trunk:
    """The trunk that a model's head sits on, with the model's transform, to go on from.

    That of a finetuned model is its own network, so that finetuning it again continues where it
    ended; its optimiser starts anew.

    Args:
        weights: Where a frozen trunk's weights are, if not where they were at training.
        memo: Folder of the memo of digested weights.

    Raises:
        ModelError: If the weights are not those the head was trained on.
        OptionError: If nobody knows where they are, or a finetuned model was given others.
        TrunkError: If the trunk cannot be had.
    """
    if model.network is not None:
        if weights is not None:
            raise OptionError(
                "--weights",
                expected="none beside a finetuned model, which brings its own network",
                found=weights,
                remedy="leave it out",
            )
        trunk = load_trunk(model.trunk, "random")
        return dataclasses.replace(
            trunk,
            weights=model.weights,
            digest=model.digest,
            transform=model.transform,
            module=restore_network(trunk, model),
        )
    if weights is None and model.weights == _UNKNOWN:
        raise OptionError(
            "--weights",
            expected=f"the weights of {model.trunk} that the model's head was trained on",
            found="none, and a head that was trained on a snapshot does not know where they are",
            remedy="name their file, or imagenet",
        )
    trunk = load_trunk(model.trunk, weights or model.weights, memo)
    check_trunk(model, trunk)
    return dataclasses.replace(trunk, transform=model.transform)


def check_name(model: Model, trunk: str) -> None:
    """Refuse another network than the model's.

    Raises:
        ModelError: If its name is another.
    """
    if trunk != model.trunk:
        raise ModelError(
            "--trunk",
            expected=f"{model.trunk}, which the model's head sits on",
            found=trunk,
            remedy="leave it out, or start from a model on that network",
        )
