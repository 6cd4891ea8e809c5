"""A component in the place of the prediction, for hosts that take one volume from a bundle."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from monai_ifim.core import (
    EigenspaceOptions,
    Likelihood,
    OutputTransform,
    as_likelihood,
    decompose,
    kept_forward,
)
from monai_ifim.messages import RESEARCH_ONLY, as_number
from monai_ifim.outputs import VOLUMES, check_volumes, components, summaries, with_class_names


class _KeepsGraph(Protocol):
    def take(self, inputs: Tensor | None = None) -> tuple[Tensor, Any] | None: ...


class ComponentOfPredictiond(MapTransform):
    """Replaces a prediction by a component volume, and adds the numbers.

    For hosts such as MONAI Label's stock ``monaibundle`` app, which run a bundle's preprocessing,
    inferer and post transforms, but no handlers, and send back the prediction as a volume. The
    eigenspace comes from the graph that ``IFIMInferer`` kept in this thread; one image at a time.

    ``component``, ``rank`` and ``energy`` in the data, which is where MONAI Label puts the
    parameters of a request, come before those given here. They are looked up and checked, never
    evaluated.

    Args:
        keys: of the prediction.
        inferer: the ``IFIMInferer`` that made it.
        likelihood: see ``eigenspace``.
        rank: see ``eigenspace``.
        energy: see ``eigenspace``.
        output_transform: see ``eigenspace``.
        vjp_chunk: see ``eigenspace``.
        class_names: of the classes or labels; numbers when their count does not fit.
        component: ``"high"``, ``"orth"`` or ``"sensitivity"``.
        image_key: of the preprocessed image.
        result_key: of the numbers.
        allow_missing_keys: leave data without a prediction alone.

    Raises:
        ValueError: unknown component or likelihood.
    """

    def __init__(
        self,
        keys: KeysCollection,
        inferer: _KeepsGraph,
        likelihood: str | Likelihood = "categorical",
        rank: int | None = None,
        energy: float | None = None,
        output_transform: OutputTransform | None = None,
        vjp_chunk: int | str | None = "auto",
        class_names: Sequence[str] = (),
        component: str = "high",
        image_key: str = "image",
        result_key: str = "result",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.inferer = inferer
        self.likelihood = as_likelihood(likelihood)
        self.rank = rank
        self.energy = energy
        self.output_transform = output_transform
        self.vjp_chunk = vjp_chunk
        self.class_names = list(class_names)
        self.component = check_volumes([component])[0]
        self.image_key = image_key
        self.result_key = result_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the prediction.

        Args:
            data: one image's dictionary after the inferer.

        Returns:
            A copy: under the key of the prediction the component (C, *S) in float32 with the
            image's metadata, and the numbers of ``summaries`` under ``result_key``.

        Raises:
            RuntimeError: the inferer kept no graph.
            ValueError: an impossible component, rank or energy, or a result with NaN.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            component, rank, energy = self._wishes(data)
            kept = self.inferer.take()
            if kept is None:
                raise RuntimeError(
                    "expected a prediction whose graph IFIMInferer kept, got none; call the "
                    "inferer under torch.no_grad() with the network in eval mode, in this thread"
                )
            leaf, output = kept
            with torch.inference_mode(False), torch.enable_grad():
                space = decompose(
                    kept_forward(leaf, output, output_transform=self.output_transform),
                    EigenspaceOptions(
                        likelihood=self.likelihood,
                        rank=rank,
                        energy=energy,
                        vjp_chunk=self.vjp_chunk,
                    ),
                )
            images = leaf.detach()
            values = components(space, images, (component,))
            volume = values[f"ifim_{component}"][0].float()
            if not torch.isfinite(space.trace).all():
                raise ValueError(
                    "expected finite logits and gradients, got NaN or infinity; look at the image "
                    "and at the network's forward"
                )
            image = result[self.image_key]
            if isinstance(image, MetaTensor):
                volume = MetaTensor(volume).copy_meta_from(image)
            result[key] = volume
            result[self.result_key] = {
                "component": component,
                **with_class_names(summaries(space, images)[0], self.class_names),
                "note": RESEARCH_ONLY,
            }
        return result

    def _wishes(self, data: Mapping[Hashable, Any]) -> tuple[str, int | None, float | None]:
        component = data.get("component")
        if component in (None, ""):
            component = self.component
        if component not in VOLUMES:
            raise ValueError(f"expected component from {VOLUMES}, got {component!r}; choose one")
        rank, energy = as_number("rank", data.get("rank")), as_number("energy", data.get("energy"))
        if rank is None and energy is None:
            return component, self.rank, self.energy
        if rank is not None and rank != int(rank):
            raise ValueError(f"expected rank as a whole number, got {rank}; or leave it out")
        return component, None if rank is None else int(rank), energy
