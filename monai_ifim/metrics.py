"""The spectrum of F as a validation metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.handlers import from_engine
from monai.handlers.ignite_metric import IgniteMetricHandler
from monai.metrics import CumulativeIterationMetric, do_metric_reduction
from monai.utils import evenly_divisible_all_gather
from torch import Tensor


def effective_rank(eigenvalues: Tensor) -> Tensor:
    """Effective rank of a spectrum, exp of the entropy of the normalised eigenvalues.

    Args:
        eigenvalues: (..., R), not negative.

    Returns:
        (...): between 1 (one direction) and R (all alike); 0 for an all-zero spectrum.

    Source: O. Roy and M. Vetterli, "The effective rank", EUSIPCO 2007.

    >>> effective_rank(torch.tensor([[2.0, 2.0, 0.0], [0.0, 0.0, 0.0]]))
    tensor([2., 0.])
    """
    total = eigenvalues.sum(dim=-1, keepdim=True)
    share = eigenvalues / torch.where(total == 0, 1, total)
    rank = torch.special.entr(share).sum(dim=-1).exp()
    return torch.where(total[..., 0] == 0, 0, rank)


STATISTICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "trace": lambda eigenvalues, trace: trace,
    "largest_eigenvalue": lambda eigenvalues, trace: eigenvalues[:, 0],
    "effective_rank": lambda eigenvalues, trace: effective_rank(eigenvalues),
}


class SpectrumMetric(IgniteMetricHandler):
    """Mean over an epoch of one number of F's spectrum, for a MONAI evaluator with ``IFIMHandler``.

    Reaches ``engine.state.metrics``, and with it TensorBoard, ``MetricsSaver`` and checkpoints,
    like any metric of MONAI's. Images without a result (NaN) do not count.

    Args:
        statistic: ``"trace"``, ``"largest_eigenvalue"`` (both in (input unit)⁻²) or
            ``"effective_rank"`` (of the eigenvalues that the handler keeps: with ``rank=1``, 1).
        save_details: keep the value of every image in ``engine.state.metric_details``.

    Raises:
        ValueError: unknown statistic.

    >>> SpectrumMetric("variance")
    Traceback (most recent call last):
        ...
    ValueError: expected statistic in ['effective_rank', 'largest_eigenvalue', 'trace'], got \
'variance'; use one metric for each number
    """

    def __init__(self, statistic: str = "trace", save_details: bool = True) -> None:
        if statistic not in STATISTICS:
            raise ValueError(
                f"expected statistic in {sorted(STATISTICS)}, got {statistic!r}; "
                "use one metric for each number"
            )
        super().__init__(
            metric_fn=_Statistic(STATISTICS[statistic]),
            output_transform=_spectrum,
            save_details=save_details,
        )


class _Statistic(CumulativeIterationMetric):
    """Accumulates one number per image, across ranks too."""

    def __init__(self, statistic: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.statistic = statistic

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        assert y is not None  # the output transform always gives both
        return self.statistic(y_pred, y.flatten())[:, None]

    def _sync(self) -> None:
        # MONAI gathers nothing from a rank without images, and the other ranks wait for it.
        if self._buffers is None and not self._synced:  # type: ignore[has-type]
            none = torch.empty(0, 1, dtype=torch.float64)
            self._synced_tensors = [evenly_divisible_all_gather(none)]
            self._synced = True
        else:
            super()._sync()

    def aggregate(self) -> Tensor:
        """Mean over the images with a result.

        Returns:
            A scalar; 0 when there is none (MONAI's convention).
        """
        return do_metric_reduction(self.get_buffer(), "mean")[0]


def _spectrum(output: Any) -> tuple[Tensor, Tensor]:
    """Eigenvalues (B, R) and trace (B,) from an engine's output, decollated or not."""
    first = output[0] if isinstance(output, list) else output
    keys = sorted(map(str, first)) if isinstance(first, Mapping) else type(first).__name__
    if "ifim_trace" not in keys:
        raise KeyError(
            f"expected ifim_trace in the engine's output, got {keys}; attach IFIMHandler to the "
            "same engine, and let the engine's function return a dictionary"
        )
    eigenvalues, trace = from_engine(["ifim_eigenvalues", "ifim_trace"])(output)
    return _stack(eigenvalues), _stack(trace)


def _stack(values: Any) -> Tensor:
    """One tensor from a batch, or from the list that decollation makes (floats of scalars)."""
    if isinstance(values, Tensor):
        return values.as_subclass(Tensor)
    return torch.stack([torch.as_tensor(v, dtype=torch.float64) for v in values])
