"""A batch in which something raises for one image: its images one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monai_ifim.core.one_by_one import each_alone, of_zeros
from monai_ifim.handlers.inference import Inference
from monai_ifim.messages import failed, reason
from monai_ifim.outputs import VOLUMES, BatchOutputs, with_metadata


@dataclass(frozen=True, eq=False, repr=False)
class Trial:
    """A batch in which an image can fail by an exception, too.

    Args:
        run: images (1, C, *S), an inference, and the place of the image in the batch (None of
            zeros) to the outputs.
        inference: the engine's, where the network has further inputs; of each image its own.
        volumes: those of ``VOLUMES`` that are formed.
        reference: outputs of a batch of this run that had results, for the number of eigenvalues;
            None before there were any.
    """

    run: Callable[..., BatchOutputs]
    inference: Inference | None = None
    volumes: Sequence[str] = ()
    reference: BatchOutputs | None = None

    def one_by_one(self, images: Tensor, error: Exception) -> BatchOutputs:
        """Outputs of a batch that failed as a whole; an image that fails alone is left out.

        Args:
            images: (B, C, *S).
            error: of the batch.

        Returns:
            Outputs with NaN and a status for the images that fail.

        Raises:
            Exception: the error, where no image has a result and an image of zeros fails, too:
                then it is not the image's fault.
        """
        plain = images.detach().as_subclass(Tensor)

        def run(image: Tensor, index: int | None) -> BatchOutputs:
            whole = self.inference
            own = None if whole is None else whole.of_image(index)
            return self.run(image, own, index)

        parts = each_alone(run, plain, error)
        good = [part for part in parts if isinstance(part, BatchOutputs)]
        model = good[0] if good else self.reference or of_zeros(run, plain, error)
        whole = [
            part
            if isinstance(part, BatchOutputs)
            else _without_result(model, plain, self.volumes, part)
            for part in parts
        ]
        return _joined(whole, images)


def _without_result(
    model: BatchOutputs | None, images: Tensor, volumes: Sequence[str], error: Exception
) -> BatchOutputs:
    """Outputs of one image that failed, of the shape that those of other images have."""
    one = images[:1]
    values: dict[str, Tensor] = {f"ifim_{n}": torch.full_like(one, math.nan) for n in volumes}
    if model is None:
        numbers = one.new_full((1, 1), math.nan, dtype=torch.float64)
        rank = torch.zeros(1, dtype=torch.long, device=one.device)
        values |= {"ifim_eigenvalues": numbers, "ifim_trace": numbers[:, 0], "ifim_rank": rank}
    else:
        whole = {f"ifim_{name}" for name in VOLUMES}
        for name, value in model.values.items():
            shape = one.shape if name in whole else value[:1].shape
            blank = math.nan if value.dtype.is_floating_point else 0
            values[name] = torch.full(shape, blank, dtype=value.dtype, device=value.device)
    return BatchOutputs(values, ({},), (failed(reason(error)),))


def _joined(parts: Sequence[BatchOutputs], images: Tensor) -> BatchOutputs:
    names = parts[0].values
    plain = {n: torch.cat([p.values[n].as_subclass(Tensor) for p in parts]) for n in names}
    values = {name: with_metadata(value, images) for name, value in plain.items()}
    numbers = tuple(each for part in parts for each in part.numbers)
    statuses = tuple(each for part in parts for each in part.statuses)
    spaces = tuple((i, space) for i, part in enumerate(parts) for _, space in part.spaces)
    return BatchOutputs(values, numbers, statuses, spaces)
