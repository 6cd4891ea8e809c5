"""An engine's own way from images to a prediction."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from monai_ifim.core import unwrap
from monai_ifim.inferers import IFIMInferer, KeptGraph, PredictionCall


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


class Inference:
    """The engine's inference of its present batch, on other images.

    Args:
        engine: a MONAI evaluator or trainer.
        network: in the place of the engine's.
        images: of the batch, (B, C, *S).
    """

    def __init__(self, engine: Any, network: nn.Module, images: Tensor) -> None:
        self._engine, self._network, self._images = engine, network, images

    def __call__(self, images: Tensor) -> Any:
        """What the network returns for the whole batch (B, C, *S), its further inputs as ever."""
        return self._call.predict(images)

    def of_image(self, index: int | None) -> Callable[[Tensor], Any]:
        """The same for one image, with its own rows of the network's further inputs.

        Args:
            index: of the image; None for an image of zeros, whose further inputs are zeros, too.

        Returns:
            Images (1, C, *S) to the network's output.
        """
        return lambda images: self._call.of_image(index).predict(images)

    def with_inputs_of(self, images: Tensor, index: int) -> Any:
        """The same for the batch when all images have the further inputs of one.

        Args:
            images: (B, C, *S).
            index: of the image.

        Returns:
            The network's output; None where it has no further inputs.
        """
        if not (self._call.args or self._call.kwargs):
            return None
        return self._call.of_image(index, repeat=len(images)).predict(images)

    def call(self, index: int | None) -> PredictionCall:
        """The call for one image, with its own rows of the network's further inputs.

        Args:
            index: of the image; None for an image of zeros, whose further inputs are zeros, too.

        Returns:
            What the inferer is given.
        """
        return self._call.of_image(index)

    @property
    def whole(self) -> PredictionCall:
        """The call for the whole batch."""
        return self._call

    @cached_property
    def _call(self) -> PredictionCall:
        engine, inferer = self._engine, self._engine.inferer
        if isinstance(inferer, IFIMInferer):  # which would keep a graph of its own
            inferer = inferer.inferer
        batch = engine.prepare_batch(
            engine.state.batch, engine.state.device, engine.non_blocking, **engine.to_kwargs
        )
        args, kwargs = batch[2:] if len(batch) == 4 else ((), {})
        network = weakref.ref(self._network)
        return PredictionCall(self._images, network, inferer, args, kwargs)
