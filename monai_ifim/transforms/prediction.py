"""A component in the place of the prediction, for hosts that take one volume from a bundle."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from monai_ifim.core import (
    EigenspaceOptions,
    OptionKeywords,
    PooledEigenspace,
    Space,
    chosen_options,
    load_pooled,
    pooled_note,
    taken_in,
    with_option_keywords,
)
from monai_ifim.inferers import PredictionCall
from monai_ifim.messages import RESEARCH_ONLY, as_number
from monai_ifim.outputs import (
    VOLUMES,
    BatchOutputs,
    outputs_of_network,
    with_class_names,
    with_metadata,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


class _KnowsItsCall(Protocol):
    def take_call(self) -> PredictionCall | None: ...


class ComponentOfPredictiond(MapTransform):
    """Replaces a prediction by a component volume, and adds the numbers.

    For hosts such as MONAI Label's stock ``monaibundle`` app, which run a bundle's preprocessing,
    inferer and post transforms, but no handlers, and send back the prediction as a volume. The
    eigenspace is that of the image and the network that ``IFIMInferer`` was last called with in
    this thread, by one pass more; one image at a time. Where that was another image than the one
    in the data, the call is refused.

    ``component``, ``rank`` and ``energy`` in the data, which is where MONAI Label puts the
    parameters of a request, come before those given here. They are looked up and checked, never
    evaluated.

    Args:
        keys: of the prediction.
        inferer: the ``IFIMInferer`` that made it.
        class_names: of the classes or labels; numbers when their count does not fit.
        component: ``"high"``, ``"orth"`` or ``"sensitivity"``.
        image_key: of the preprocessed image.
        result_key: of the numbers.
        allow_missing_keys: leave data without a prediction alone.
        options: choices about the eigenspace as a value, instead of ``keywords``.
        space: a pooled eigenspace, or a file of one, in which the components are taken, and the
            result says so; ``rank`` counts its directions then (by default the stable ones).
        keywords: the fields of ``EigenspaceOptions``, for example ``likelihood="bernoulli"``.

    Raises:
        TypeError: a keyword that is no option.
        ValueError: an unknown component, or an impossible option.
    """

    @with_option_keywords
    def __init__(  # noqa: PLR0913 - a configuration needs every choice as a keyword
        self,
        keys: KeysCollection,
        inferer: _KnowsItsCall,
        class_names: Sequence[str] = (),
        component: str = "high",
        image_key: str = "image",
        result_key: str = "result",
        allow_missing_keys: bool = False,
        *,
        options: EigenspaceOptions | None = None,
        space: Space = None,
        **keywords: Unpack[OptionKeywords],
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.inferer = inferer
        self.options = chosen_options(options, keywords)
        self.space = load_pooled(space)
        taken_in(self.space, self.options)  # refused now, not with the first request
        self.class_names = list(class_names)
        self.component = _check_component(component)
        self.image_key = image_key
        self.result_key = result_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the prediction.

        Args:
            data: one image's dictionary after the inferer.

        Returns:
            A copy: under the key of the prediction the component (C, *S) in float32 with the
            image's metadata, and the numbers of ``BatchOutputs`` under ``result_key``.

        Raises:
            RuntimeError: the inferer made no prediction in this thread, or that of another image.
            ValueError: an impossible component, rank or energy, or a result with NaN.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            component, options = self._requested(data)
            image = result[self.image_key]
            within, options = taken_in(self.space, options)
            outputs = _outputs_of(self.inferer.take_call(), image, options, component, within)
            if not torch.isfinite(outputs.values["ifim_trace"]).all():
                raise ValueError(
                    "expected finite logits and gradients, got NaN or infinity; look at the image "
                    "and at the network's forward"
                )
            volume = outputs.values[f"ifim_{component}"][0].float()
            result[key] = with_metadata(volume.as_subclass(Tensor), image)
            result[self.result_key] = {
                "component": component,
                **with_class_names(outputs.numbers[0], self.class_names),
                **pooled_note(within),
                "note": RESEARCH_ONLY,
            }
        return result

    def _requested(self, data: Mapping[Hashable, Any]) -> tuple[str, EigenspaceOptions]:
        """Component and options of this request, where it has any."""
        component = data.get("component")
        component = self.component if component in (None, "") else _check_component(component)
        rank, energy = as_number("rank", data.get("rank")), as_number("energy", data.get("energy"))
        if rank is None and energy is None:
            return component, self.options
        if rank is not None and rank != int(rank):
            raise ValueError(f"expected rank as a whole number, got {rank}; or leave it out")
        whole = None if rank is None else int(rank)
        return component, replace(self.options, rank=whole, energy=energy)


def _check_component(component: Any) -> str:
    if component not in VOLUMES:
        raise ValueError(f"expected component from {VOLUMES}, got {component!r}; choose one")
    return str(component)


def _outputs_of(
    call: PredictionCall | None,
    image: Tensor,
    options: EigenspaceOptions,
    component: str,
    within: PooledEigenspace | None,
) -> BatchOutputs:
    """Component and numbers of the image that a prediction was made of."""
    network = None if call is None else call.network()
    if call is None or network is None:
        raise RuntimeError(
            "expected a prediction that IFIMInferer made in this thread, got none; call the "
            "inferer under torch.no_grad() with a torch.nn.Module, and keep the network until here"
        )
    images = call.images
    if not _same_image(images, image):
        raise RuntimeError(
            f"expected the image that was predicted last in this thread, {tuple(images.shape)}, "
            f"got another, {tuple(image.shape)}; let this transform follow the inferer at once, "
            "with the image as the inferer had it, one image at a time"
        )
    return outputs_of_network(
        network, images, options, (component,), predict=call.predict, within=within
    )


def _same_image(images: Tensor, image: Tensor) -> bool:
    """Whether a batch is this image alone, value by value; NaN is the same as itself."""
    one = torch.as_tensor(image).detach().as_subclass(Tensor)
    one = one if one.shape == images.shape else one[None]
    if len(images) != 1 or one.shape != images.shape:
        return False
    one = one.to(images.device, images.dtype)
    return torch.allclose(images.as_subclass(Tensor), one, rtol=0, atol=0, equal_nan=True)
