"""Where the numbers and pictures of an epoch go: TensorBoard, or an MLflow run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from monai_ifim.report.notebook import check_matplotlib

if TYPE_CHECKING:  # matplotlib is loaded by the first picture
    from matplotlib.figure import Figure


class EpochWriter(Protocol):
    """Takes what there is to log of an epoch."""

    def spectrum(self, shares: Sequence[float], epoch: int) -> None:
        """Mean share of the trace that the 1st, 2nd, … eigenvalue holds."""

    def traces(self, values: Sequence[float], epoch: int) -> None:
        """Trace of F of every image."""

    def cases(self, figure: Figure, epoch: int) -> None:
        """The most sensitive images."""


@dataclass(frozen=True)
class TensorBoardWriter:
    """Writes with a ``SummaryWriter`` of torch or tensorboardX.

    Args:
        writer: has ``add_scalar``, ``add_histogram``, ``add_figure`` and ``flush``.
    """

    writer: Any

    def spectrum(self, shares: Sequence[float], epoch: int) -> None:
        """One curve for each eigenvalue."""
        for number, share in enumerate(shares, start=1):
            self.writer.add_scalar(f"ifim_spectrum/{number:02d}", share, epoch)

    def traces(self, values: Sequence[float], epoch: int) -> None:
        """A histogram."""
        import numpy as np

        self.writer.add_histogram("ifim_traces", np.asarray(values), epoch)
        self.writer.flush()

    def cases(self, figure: Figure, epoch: int) -> None:
        """An image."""
        self.writer.add_figure("ifim_cases", figure, epoch)
        self.writer.flush()


@dataclass(frozen=True)
class MLflowWriter:
    """Writes to the run of MONAI's ``MLFlowHandler``.

    MLflow has no histograms: that of the traces is a picture, an artifact of the run as the cases.

    Args:
        handler: its run begins with the engine's.
    """

    handler: Any

    def spectrum(self, shares: Sequence[float], epoch: int) -> None:
        """One metric for each eigenvalue."""
        for number, share in enumerate(shares, start=1):
            name = f"ifim_spectrum/{number:02d}"
            self.handler.client.log_metric(self._run, name, share, step=epoch)

    def traces(self, values: Sequence[float], epoch: int) -> None:
        """A picture of the histogram."""
        self._picture(_histogram(values, epoch), f"traces_epoch_{epoch:04d}")

    def cases(self, figure: Figure, epoch: int) -> None:
        """A picture."""
        self._picture(figure, f"cases_epoch_{epoch:04d}")

    @property
    def _run(self) -> str:
        return str(self.handler.cur_run.info.run_id)

    def _picture(self, figure: Figure, name: str) -> None:
        self.handler.client.log_figure(self._run, figure, f"ifim/{name}.png")


def writer_of(host: Any) -> EpochWriter | None:
    """How to log to what a host has.

    Args:
        host: a ``SummaryWriter``, or a handler that holds one as MONAI's TensorBoard handlers and
            Ignite's ``TensorboardLogger`` do, or MONAI's ``MLFlowHandler``.

    Returns:
        The writer; None for anything else.
    """
    for writer in (host, getattr(host, "_writer", None), getattr(host, "writer", None)):
        if all(callable(getattr(writer, name, None)) for name in _SUMMARY_WRITER):
            return TensorBoardWriter(writer)
    if hasattr(host, "cur_run") and hasattr(host, "client"):
        return MLflowWriter(host)
    return None


_SUMMARY_WRITER = ("add_scalar", "add_histogram", "add_figure", "flush")


def _histogram(values: Sequence[float], epoch: int) -> Figure:
    """Of positive values, in bins of equal ratio; traces differ by powers of ten."""
    import numpy as np

    check_matplotlib()
    from matplotlib.figure import Figure

    positive = np.array([value for value in values if value > 0])
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axis = figure.subplots()
    if len(positive):
        low, high = positive.min(), positive.max()
        axis.hist(positive, np.geomspace(low / 1.05, high * 1.05, 31).tolist(), color="#1f6fb4")
        axis.set_xscale("log")
    axis.set_xlabel("trace of F, (input unit)⁻²")
    axis.set_ylabel("images")
    axis.set_title(f"epoch {epoch}: {len(values)} images, F = 0 for {len(values) - len(positive)}")
    return figure
