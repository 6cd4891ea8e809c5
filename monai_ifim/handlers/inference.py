"""An engine's own way from images to a prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from torch import Tensor, nn

from monai_ifim.inferers import IFIMInferer


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
    call = inferer.predict if isinstance(inferer, IFIMInferer) else inferer
    return lambda x: call(x, network, *further()[0], **further()[1])
