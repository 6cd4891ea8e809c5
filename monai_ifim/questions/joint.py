"""F of several inputs of an evaluator's network together: an image and clinical data, MR and CT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from monai.utils.enums import CommonKeys
from torch import Tensor, nn

from monai_ifim.changes import MissingEntry
from monai_ifim.core import EigenspaceOptions, SeveralInputs
from monai_ifim.inferers import PredictionCall
from monai_ifim.outputs import BatchOutputs, outputs_of_network, with_metadata

Name = str | int


class JointInputs:
    """Which inputs F is about, and what one unit of each is.

    Args:
        scales: by the name of each input: ``"image"``, the names of further keyword arguments of
            the network, and 1, 2, … for further positional ones. A number > 0, or one for each
            column; the standard deviation over the data makes changes of different units
            comparable.

    Raises:
        ValueError: no scales, no image among the inputs, or a scale that is not > 0.
    """

    def __init__(self, scales: Mapping[Name, Any]) -> None:
        if not isinstance(scales, Mapping) or CommonKeys.IMAGE not in scales or len(scales) < 2:
            raise ValueError(
                "expected inputs with a scale for 'image' and for at least one more input, got "
                f"{scales!r}; for example {{'image': 1.0, 'age': 12.0}}"
            )
        self.scales = {name: _scale(name, value) for name, value in scales.items()}

    def outputs(
        self,
        network: nn.Module,
        images: Tensor,
        call: PredictionCall,
        options: EigenspaceOptions,
        volumes: Sequence[str],
    ) -> BatchOutputs:
        """Everything about a batch.

        Args:
            network: the classifier, unwrapped; left as it is.
            images: (B, C, *S), with metadata or without.
            call: the engine's of this batch, with the network's further inputs.
            options: choices about the eigenspace.
            volumes: which of ``VOLUMES`` to form.

        Returns:
            One spectrum for each image and its inputs. ``ifim_high`` is the image's, those of the
            others are ``ifim_high_<name>``, and so on; components in units of the inputs,
            sensitivities per scale. The shares that the inputs have in the trace are the columns
            ``input_share_<name>``. Errors are those of ``SeveralInputs``.

        Raises:
            MissingEntry: an input that the network does not get.
        """
        given = _Given.of(call, images)
        missing = [name for name in self.scales if name not in given.inputs]
        if missing:
            raise MissingEntry(
                f"expected the inputs {list(self.scales)} with a row for each image, got "
                f"{list(given.inputs)} from prepare_batch, without {missing}; give them as "
                "further arguments of the network"
            )
        several = SeveralInputs(
            network, given.inputs, wrt=list(self.scales), scale=self.scales, call=given
        )
        found = outputs_of_network(several.network, several.images, options, (), keep_space=True)
        ((_, space),) = found.spaces
        values: dict[str, Tensor] = {}
        parts = dict(zip(("high", "orth"), several.split(space), strict=True))
        if "sensitivity" in volumes:
            parts["sensitivity"] = several.parts(space.sensitivity())
        for volume in volumes:
            for name, part in parts[volume].items():
                own = name == CommonKeys.IMAGE
                key = f"ifim_{volume}" if own else f"ifim_{volume}_{name}"
                part = part.detach().as_subclass(Tensor)
                values[key] = with_metadata(part, images) if own else part
        shares = {f"input_share_{n}": s.tolist() for n, s in several.shares(space).items()}
        numbers = tuple(
            {**own, **{name: share[i] for name, share in shares.items()}}
            for i, own in enumerate(found.numbers)
        )
        plain = {name: with_metadata(value, images) for name, value in found.values.items()}
        return replace(found, values={**plain, **values}, numbers=numbers, spaces=())


@dataclass(frozen=True, eq=False)
class _Given:
    """The inputs of a call by name, and the call with other values of them.

    Attributes:
        call: the engine's.
        inputs: the image, and of the further arguments those with a row for each image, and those
            that are no tensors. A tensor of another length is the same for all images.
    """

    call: PredictionCall
    inputs: Mapping[Name, Any]

    @classmethod
    def of(cls, call: PredictionCall, images: Tensor) -> _Given:
        further: dict[Name, Any] = dict(enumerate(call.args, start=1))
        further |= dict(call.kwargs.items())
        own = {n: v for n, v in further.items() if not isinstance(v, Tensor) or _rows(v, images)}
        return cls(call, {CommonKeys.IMAGE: images, **own})

    def __call__(self, network: nn.Module, inputs: Mapping[Name, Any]) -> Any:
        """What the inferer returns for these inputs."""
        call = self.call
        args = [inputs.get(i, value) for i, value in enumerate(call.args, start=1)]
        kwargs = {name: inputs.get(name, value) for name, value in call.kwargs.items()}
        return call.inferer(inputs[CommonKeys.IMAGE], network, *args, **kwargs)


def _rows(value: Tensor, images: Tensor) -> bool:
    return value.ndim > 0 and len(value) == len(images)


def _scale(name: Name, value: Any) -> float | Tensor:
    scale = torch.as_tensor(value, dtype=torch.float64)
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise ValueError(
            f"expected a scale > 0 for {name!r}, got {value!r}; give the standard deviation over "
            "the data"
        )
    return scale if scale.ndim else float(scale)
