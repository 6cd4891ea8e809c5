"""What makes the results of a handler's run, for ``run.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine
from torch import nn

from monai_ifim.data.loaders import transforms_of
from monai_ifim.data.run_folder.identity import described

_HOW = ("vjp_chunk", "offload")  # options of how, not of what: memory may be short at a resume


def run_identity(
    network: nn.Module,
    digest: str,
    options: Mapping[str, Any],
    engine: Engine,
    bundle: str | None,
) -> dict[str, Any]:
    """What makes the results of a run: two runs with the same give the same.

    Args:
        network: unwrapped.
        digest: of its weights.
        options: of the eigenspace, and of the handler.
        engine: with an inferer, if it has one, and a data set with the preprocessing.
        bundle: digest of the bundle, None where there is none.

    Returns:
        Numbers and texts.
    """
    dataset = getattr(engine.state.dataloader, "dataset", None)
    transforms = {id(each): each for each in transforms_of(dataset)}.values()
    choices = {**options, "inferer": getattr(engine, "inferer", None)}
    settings = {name: described(each) for name, each in choices.items() if name not in _HOW}
    return {
        "network": {"class": type(network).__name__, "weights_sha256": digest},
        "bundle": bundle,
        "settings": settings,
        "preprocessing": [described(each) for each in transforms],
    }
