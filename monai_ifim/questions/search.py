"""The smallest change of an image that leads to another answer, by the attacks of foolbox.

Lengths are counted in units of the first-order distance (``FlipDistance``), so that the attacks'
steps, which their authors chose for images from 0 to 1, fit images of any range.

Sources: J. Rony et al., "Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial
Attacks and Defenses", CVPR 2019 (DDN); A. Madry et al., "Towards Deep Learning Models Resistant to
Adversarial Attacks", ICLR 2018 (PGD); J. Rauber et al., "Foolbox Native", JOSS 2020.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from monai_ifim.core.flips import margins_of
from monai_ifim.core.gradients.logits import OutputTransform, choose_logits

METHODS = ("ddn", "pgd")
# Radii around the image, in first-order distances: DDN with 20 steps reaches from 0.36 to 2.65
# times the one that it starts with, PGD the radius itself.
_STARTS = {"ddn": (1.0, 2.5, 6.0, 15.0), "pgd": (1.0, 2.0, 4.0, 8.0, 16.0)}
_HALVINGS = 7  # of PGD's radius: to 1 % of it
_REFINED = 10  # halvings of the way to the boundary: to 0.1 % of it
# Of the loss: large, so that its gradient leads to the nearest other answer and not to a mixture.
_SHARPNESS = 10.0
_BEYOND = 1e-3  # of that way: so far behind the boundary the image just beyond may lie


@dataclass(frozen=True, eq=False)
class Search:
    """What is searched, at a batch.

    Attributes:
        predict: images (B, C, *S) to the network's output.
        images: (B, C, *S) without metadata.
        family: of the logits, with ``flips`` and ``contrasts``.
        logits: of the images, (B, K).
        scale: length of a unit, (B,): the first-order distance.
        weights: of the margins, (B, M): what makes them distances, to first order, in that unit.
        bounds: least and largest value (B,) of each image's changed voxels, None for any.
        output_transform: chooses the logits in the output.
    """

    predict: Callable[[Tensor], Any]
    images: Tensor
    family: Any
    logits: Tensor
    scale: Tensor
    weights: Tensor
    bounds: tuple[Tensor, Tensor] | None = None
    output_transform: OutputTransform | None = None

    def changed(self, change: Tensor) -> Tensor:
        """The images after changes (B, C, *S) in input units, inside the bounds."""
        images = self.images + change
        if self.bounds is None:
            return images
        low, high = (_broad(bound, images) for bound in self.bounds)
        return torch.minimum(torch.maximum(images, low), high)

    def margins(self, images: Tensor) -> Tensor:
        """For each other answer whether it is reached, (B, M): where the number is positive."""
        output = self.predict(images.clone())
        logits = choose_logits(output, self.output_transform)
        return margins_of(self.family, logits, self.logits)

    def flipped(self, images: Tensor) -> Tensor:
        """Whether images (B, C, *S) have another answer, (B,)."""
        with torch.no_grad():
            return (self.margins(images) > 0).any(dim=1)

    def nearest(self, method: str, steps: int) -> tuple[Tensor, Tensor]:
        """The nearest images with another answer.

        Args:
            method: one of ``METHODS``.
            steps: gradients of each attempt.

        Returns:
            Images (B, C, *S), just beyond the boundary on their way, and which of them were found.
        """
        best = self.images.clone()
        found = torch.zeros(len(best), dtype=torch.bool, device=best.device)
        for radius in _STARTS[method]:
            images = self._attempt(method, steps, torch.full_like(self.scale, radius))
            new = self.flipped(images) & ~found
            best = torch.where(_broad(new, best), images, best)
            found = found | new
            if bool(found.all()):
                break
        if method == "pgd":
            best = self._smaller_balls(best, found, steps)
        return self._just_beyond(best), found

    def _smaller_balls(self, best: Tensor, found: Tensor, steps: int) -> Tensor:
        """Bisection: PGD in ever smaller balls, of each image its own."""
        high = self.lengths(best) / self.scale.double()
        low = torch.zeros_like(high)
        for _ in range(_HALVINGS):
            middle = torch.where(found, (low + high) / 2, 1)
            images = self._attempt("pgd", steps, middle)
            good = self.flipped(images) & found
            best = torch.where(_broad(good, best), images, best)
            high, low = torch.where(good, middle, high), torch.where(good, low, middle)
        return best

    def _just_beyond(self, images: Tensor) -> Tensor:
        """Bisection on the straight way to images: where the answer has just changed."""
        low = torch.zeros_like(self.scale, dtype=torch.float64)
        high = torch.ones_like(low)
        way = images - self.images
        for _ in range(_REFINED):
            middle = (low + high) / 2
            good = self.flipped(self.images + _broad(middle, way) * way)
            high, low = torch.where(good, middle, high), torch.where(good, low, middle)
        nearer = self.images + _broad((high + _BEYOND).clamp_max(1), way) * way
        return torch.where(_broad(self.flipped(nearer), images), nearer, images)

    def lengths(self, images: Tensor) -> Tensor:
        """L2 norms of the changes that lead to images, (B,) in float64."""
        return torch.linalg.vector_norm(
            (images - self.images).flatten(1), dim=1, dtype=torch.double
        )

    def _attempt(self, method: str, steps: int, radius: Tensor) -> Tensor:
        """What an attack of foolbox makes of the images, with radii (B,) in units of ``scale``."""
        library = foolbox()
        unit = _broad(radius * self.scale, self.images)
        model = library.PyTorchModel(
            _Margins(self, unit).eval(), (-torch.inf, torch.inf), self.images.device
        )
        nothing = torch.zeros_like(self.images)
        here = torch.zeros(len(nothing), dtype=torch.long, device=nothing.device)
        if method == "ddn":
            attack = library.attacks.DDNAttack(init_epsilon=1.0, steps=steps)
            change = attack.run(model, nothing, here)
        else:
            attack = library.attacks.L2ProjectedGradientDescentAttack(
                steps=steps, rel_stepsize=2.5 / steps, random_start=False
            )
            change = attack.run(model, nothing, here, epsilon=1.0)
        return self.changed((unit * change).to(self.images.dtype)).detach()


class _Margins(nn.Module):
    """Scaled changes to logits of "as before" (0) and of each other answer (its margin).

    Holds the network in a function, where foolbox neither moves it nor sets its mode.
    """

    def __init__(self, search: Search, unit: Tensor) -> None:
        super().__init__()
        self._search, self._unit = (search,), unit

    def forward(self, change: Tensor) -> Tensor:
        """Changes (B, C, *S) to (B, 1 + M)."""
        (search,) = self._search
        margins = search.margins(search.changed(self._unit * change)) * search.weights * _SHARPNESS
        return torch.cat([torch.zeros_like(margins[:, :1]), margins], dim=1)


def foolbox() -> Any:
    """The library, which is an extra.

    Returns:
        The module.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        with _quiet_import():
            return import_module("foolbox")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"expected foolbox for a verified distance, got no {error.name}: pip install "
            "'monai_ifim[adversarial]'"
        ) from error


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Without a warning of SciPy's about foolbox, and without the program git.

    GitPython, with which foolbox could fetch networks, refuses to be imported without it.
    """
    name = "GIT_PYTHON_REFRESH"
    before = os.environ.get(name)
    os.environ[name] = "quiet"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _broad(values: Tensor, images: Tensor) -> Tensor:
    """(B,) as (B, 1, ...), of the images' dtype where they are numbers."""
    values = values.reshape(-1, *[1] * (images.ndim - 1)).to(images.device)
    return values if values.dtype == torch.bool else values.to(images.dtype)
