"""F averaged over a neighbourhood of each image, or over several networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from monai_ifim.core.checks import (
    check_finite_gradients,
    check_finite_images,
    check_images,
    check_rank,
)
from monai_ifim.core.decomposition import decompose
from monai_ifim.core.eigenspace import Approximation, Eigenspace
from monai_ifim.core.families import Family
from monai_ifim.core.gradients.at_rest import at_rest, unwrap
from monai_ifim.core.gradients.forward import run_forward
from monai_ifim.core.gradients.logits import predicted_logits
from monai_ifim.core.options import (
    EigenspaceOptions,
    OptionKeywords,
    chosen_options,
    with_option_keywords,
)
from monai_ifim.core.pooling.sketch import Sketch, root_columns
from monai_ifim.core.spectrum import inner_products, solve

if TYPE_CHECKING:
    from typing_extensions import Unpack

Noise = float | Callable[[Tensor, torch.Generator], Tensor]
# Rows of the sketch of each image, where no rank says how many are wanted.
_ROWS = 40


@with_option_keywords
def smoothed_eigenspace(
    network: nn.Module | Sequence[nn.Module],
    images: Tensor,
    *,
    noise: Noise = 0.0,
    samples: int = 32,
    seed: int = 0,
    options: EigenspaceOptions | None = None,
    **keywords: Unpack[OptionKeywords],
) -> Eigenspace:
    """Eigenspace of the mean of F(x + δ) over random δ, and over networks where there are several.

    Which directions survive the averaging differs between tasks and numbers of classes: compare the
    result with that of another training.

    Args:
        network: a network as in ``eigenspace``, or several of them with the same outputs.
        images: (B, C, *S), preprocessed as the network expects them.
        noise: standard deviation of white noise in input units, or a function of the images and a
            generator that draws δ. 0 for an ensemble at the image itself.
        samples: draws for each network; one is enough without noise.
        seed: of the draws; the global random state is left as it was.
        options: a value that holds all choices; instead of ``keywords``.
        keywords: the fields of ``EigenspaceOptions``; ``rank`` and ``energy`` are those of the
            result.

    Returns:
        As ``eigenspace``, with logits at the images themselves (the mean over networks). Its
        ``approximation`` has the standard error of the trace (NaN from one draw), and what the
        sketch of each image dropped: four times the rank, or 40 rows, are kept.

    Raises:
        ValueError: no network, no draw, a negative noise, or as ``eigenspace``.

    Source: the Fisher counterpart of D. Smilkov et al., "SmoothGrad" (2017).
    """
    options = chosen_options(options, keywords)
    networks = [network] if isinstance(network, nn.Module) else list(network)
    _check_choices(networks, noise, samples)
    check_images(images)
    check_finite_images(images)
    plain = images.detach().as_subclass(Tensor)
    still = isinstance(noise, (int, float)) and noise == 0
    draw = _white(noise) if isinstance(noise, (int, float)) else noise
    generator = torch.Generator(plain.device).manual_seed(seed)
    sample = _Sample(Sketch(_ROWS if options.rank is None else max(_ROWS, 4 * options.rank)))
    for member in map(unwrap, networks):
        with at_rest(member, plain.device, autocast=options.autocast):
            for _ in range(1 if still else samples):
                moved = plain if still else plain + _fitting(draw(plain, generator), plain)
                sample.add(member, moved, options)
            with torch.no_grad():
                sample.logits.append(predicted_logits(member, plain, options.output_transform))
    return sample.result(options)


class _Sample:
    """The sum of F over what was drawn.

    Args:
        sketch: of its root columns, for each image.
    """

    def __init__(self, sketch: Sketch) -> None:
        self.sketch = sketch
        self.logits: list[Tensor] = []
        self._traces: list[Tensor] = []
        self._backward = self._forward = 0
        self._family: Family | None = None

    def add(self, network: nn.Module, images: Tensor, options: EigenspaceOptions) -> None:
        """Add F at some images (B, C, *S), of a network in eval mode."""
        forward = run_forward(network, images, output_transform=options.output_transform)
        rank = options.rank if forward.logits.ndim > 2 else None
        space = decompose(forward, replace(options, rank=rank, energy=None), network=network)
        check_finite_gradients(space.trace)
        if self._traces and space.trace.shape != self._traces[0].shape:
            raise ValueError("expected networks that treat the same images, got other batches")
        self.sketch.add(root_columns(space, torch.ones_like(space.trace)))
        self._traces.append(space.trace)
        self._family = space.likelihood
        known = space.approximation
        self._backward += (
            space.gradients.shape[1] if known is None else known.vector_jacobian_products
        )
        self._forward += 0 if known is None else known.jacobian_vector_products

    def result(self, options: EigenspaceOptions) -> Eigenspace:
        """The eigenspace of the mean."""
        rows, traces, family = self.sketch.rows, torch.stack(self._traces), self._family
        assert rows is not None
        assert family is not None
        count = len(traces)
        rows, _ = rows.times(torch.full_like(rows.scale, 1 / count)).decomposed(self.sketch.size)
        factor = torch.diag_embed(rows.scale[:, None].expand(-1, rows.values.shape[1]))
        gram = inner_products(rows.values, rows.values)
        check_rank(options.rank, options.energy, rows.values[0, 0].numel())
        values, _, kept, mixing = solve(
            gram, factor, rows.values.dtype, options.rank, options.energy
        )
        unknown = torch.full_like(rows.trace, torch.nan)
        return Eigenspace(
            logits=torch.stack(self.logits).mean(dim=0).to(rows.values.dtype),
            eigenvalues=values,
            trace=rows.trace,
            rank=kept,
            likelihood=family,
            gradients=rows.values,
            factor=factor,
            mixing=mixing,
            approximation=Approximation(
                residual=torch.full_like(values, torch.nan),
                lost_trace=rows.lost_trace,
                lost_trace_bound=torch.maximum(rows.bound, rows.lost_trace),
                trace_error=traces.std(dim=0) / count**0.5 if count > 1 else unknown,
                vector_jacobian_products=self._backward,
                jacobian_vector_products=self._forward,
            ),
            contrast_weights=factor.new_full(
                (len(factor), _contrasts(family, self.logits[0]), factor.shape[1]), torch.nan
            ),
        )


def _contrasts(family: Family, logits: Tensor) -> int:
    """How many contrasts a family has, whose gradients are no longer known one by one."""
    return len(family.contrasts(logits)) if hasattr(family, "contrasts") else 0


def _white(deviation: float) -> Callable[[Tensor, torch.Generator], Tensor]:
    def draw(images: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(
            images.shape, generator=generator, dtype=torch.float64, device=images.device
        )
        return (deviation * noise).to(images.dtype)

    return draw


def _fitting(noise: Tensor, images: Tensor) -> Tensor:
    if noise.shape != images.shape:
        raise ValueError(
            f"expected noise of the images' shape {tuple(images.shape)}, got {tuple(noise.shape)}; "
            "draw one for each image of the batch"
        )
    return noise.to(images)


def _check_choices(networks: Sequence[nn.Module], noise: Noise, samples: int) -> None:
    if not networks:
        raise ValueError("expected a network or several, got an empty list; give at least one")
    if isinstance(noise, (int, float)) and not 0 <= noise < float("inf"):
        raise ValueError(
            f"expected noise as a standard deviation >= 0 in input units, got {noise}; for example "
            "0.5 * images.std()"
        )
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"expected samples >= 1, got {samples!r}; 32 is a good start")
