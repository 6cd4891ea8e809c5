"""An engine's own way from images to a prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from torch import Tensor, nn

from monai_ifim.core import unwrap
from monai_ifim.inferers import IFIMInferer, KeptGraph


def network_of(engine: Any) -> nn.Module:
    """An engine's network.

    Args:
        engine: of MONAI or Ignite.

    Returns:
        The network, unwrapped.

    Raises:
        ValueError: it has none.
    """
    network = getattr(engine, "network", None)
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"expected an engine with a network, got {type(engine).__name__} without one; "
            "pass IFIMHandler(network=...)"
        )
    return unwrap(network)


def graph_of_next(engine: Any, network: nn.Module | None) -> KeptGraph | None:
    """Where the graph of the engine's next forward pass will be, for as long as it is held.

    Args:
        engine: of MONAI or Ignite.
        network: that the graph is wanted of; the engine's own when None.

    Returns:
        None where the engine keeps none, or runs another network.
    """
    inferer, own = getattr(engine, "inferer", None), getattr(engine, "network", None)
    if not isinstance(inferer, IFIMInferer) or not isinstance(own, nn.Module):
        return None
    return inferer.keep_graph() if network is None or unwrap(network) is unwrap(own) else None


def inference_of(engine: Any, network: nn.Module) -> Callable[[Tensor], Any]:
    """The engine's inference of its present batch, on other images.

    Args:
        engine: a MONAI evaluator or trainer.
        network: in the place of the engine's.

    Returns:
        Images (B, C, *S) to the network's output.
    """

    @cache
    def further() -> tuple[Sequence[Any], Mapping[str, Any]]:
        batch = engine.prepare_batch(
            engine.state.batch, engine.state.device, engine.non_blocking, **engine.to_kwargs
        )
        return batch[2:] if len(batch) == 4 else ((), {})

    inferer = engine.inferer
    if isinstance(inferer, IFIMInferer):  # which would keep a graph of its own
        inferer = inferer.inferer
    return lambda x: inferer(x, network, *further()[0], **further()[1])
