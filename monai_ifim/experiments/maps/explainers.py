"""Attribution methods in the form in which Quantus asks for them, and the other way round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from monai_ifim.core import as_leaf, at_rest
from monai_ifim.experiments.logits import image_logits
from monai_ifim.experiments.maps.methods import AttributionMethod, Logit, OutcomeLogit

Explain = Callable[..., Any]
"""``explain(model=, inputs=, targets=)`` to attributions (B, C, *S), as an array or a tensor."""


@dataclass(frozen=True, eq=False)
class OwnMethod(AttributionMethod):
    """Somebody's attribution function, in the form that Quantus asks for.

    Attributes:
        name: key of its maps.
        explain: called as ``explain(model=network, inputs=images, targets=classes)`` with tensors;
            its result is of the shape of the images, or has one channel.
        digest: of its source, for keys of results.
    """

    name: str
    explain: Explain
    digest: str = ""

    def attribute(self, logit: Logit, image: Tensor, batch_size: int) -> Tensor:
        """Signed attributions.

        Args:
            logit: of the network, with the number of the class.
            image: (1, C, *S).
            batch_size: ignored.

        Returns:
            (1, C, *S).

        Raises:
            ValueError: the function's result has another shape.
        """
        if not isinstance(logit, OutcomeLogit):
            raise ValueError(
                f"expected the logit of a network for {self.name}, got {type(logit).__name__}; "
                "call attribution_maps"
            )
        targets = torch.tensor([logit.index])
        found = self.explain(model=logit.network, inputs=image.detach(), targets=targets)
        values = torch.as_tensor(np.asarray(found) if isinstance(found, list) else found)
        shape = tuple(image.shape)
        if tuple(values.shape) not in (shape, (1, 1, *shape[2:])):
            raise ValueError(
                f"expected attributions {shape} from {self.name}, got {tuple(values.shape)}; give "
                "one number for each entry of the image, or one channel"
            )
        return values.to(image).expand(image.shape)


def explainer(method: AttributionMethod, seed: int = 0) -> Explain:
    """An attribution method as an ``explain_func`` of Quantus.

    Args:
        method: for example ``Gradient()``.
        seed: of methods that draw; the global random state is left as it was.

    Returns:
        The function; its attributions are those of the logits of ``targets``, signed, (B, C, *S).
    """

    def explain(model: nn.Module, inputs: Any, targets: Any, **ignored: Any) -> np.ndarray:
        parameter = next(model.parameters(), torch.zeros(0))
        images = torch.as_tensor(inputs).to(parameter)
        chosen = method.prepared(model, images)
        maps = []
        with at_rest(model, images.device):  # which restores the random state
            torch.default_generator.manual_seed(seed)
            for image, target in zip(images.split(1), targets, strict=True):
                logit = OutcomeLogit(model, None, int(target), 1)
                maps.append(chosen.attribute(logit, as_leaf(image), 32).detach())
        values: np.ndarray = torch.cat(maps).double().cpu().numpy()
        return values

    return explain


def predicted_classes(network: nn.Module, images: Tensor) -> np.ndarray:
    """The most probable class of each image, as Quantus wants its targets.

    Args:
        network: categorical classifier; left as it was.
        images: (B, C, *S).

    Returns:
        (B,) of int64.
    """
    with at_rest(network, images.device), torch.no_grad():
        classes: np.ndarray = image_logits(network, images, None).argmax(dim=1).cpu().numpy()
    return classes
