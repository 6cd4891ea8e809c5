"""Attribution methods as objects with their own options; captum computes them.

A new method is one more class here and its name in ``METHODS``.

Source: K. Simonyan et al., ICLR workshop 2014 (gradient); M. Sundararajan et al., ICML 2017
(integrated gradients); D. Smilkov et al., arXiv 1706.03825 (SmoothGrad); R. R. Selvaraju et
al., ICCV 2017 (Grad-CAM); M. D. Zeiler and R. Fergus, ECCV 2014 (occlusion).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from captum import attr as captum
from torch import Tensor, nn

from monai_ifim.core import OutputTransform
from monai_ifim.experiments.logits import image_logits
from monai_ifim.experiments.maps.features import grad_cam_layer

Logit = Callable[[Tensor], Tensor]
"""The attributed logit (b,) as a function of images (b, C, *S)."""


@dataclass(frozen=True, eq=False)
class OutcomeLogit:
    """The attributed logit of a network, (b,) for images (b, C, *S).

    Attributes:
        network: the classifier.
        output_transform: chooses the logits when it returns a tuple or a dict.
        index: number of the logit.
        sign: 1, or -1 where the absence of a label is what is attributed.
    """

    network: nn.Module
    output_transform: OutputTransform | None
    index: int
    sign: int

    def __call__(self, images: Tensor) -> Tensor:
        """The logit (b,) of images (b, C, *S)."""
        logits = image_logits(self.network, images, self.output_transform)
        return self.sign * logits[:, self.index]


_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


class AttributionMethod(ABC):
    """One way to attribute a logit to the entries of an image.

    Attributes:
        name: key of its maps.
        random: whether it draws from torch's global random stream.
    """

    name: str
    random: ClassVar[bool] = False

    def prepared(self, network: nn.Module, images: Tensor) -> AttributionMethod:
        """The method for this network and this size of images.

        Args:
            network: the classifier; left as it was.
            images: (B, C, *S).

        Returns:
            The method with everything filled in that depends on them.

        Raises:
            ValueError: it does not apply to them.
        """
        return self

    @abstractmethod
    def attribute(self, logit: Logit, image: Tensor, batch_size: int) -> Tensor:
        """Signed attributions.

        Args:
            logit: to attribute.
            image: (1, C, *S), a leaf that requires a gradient.
            batch_size: evaluations of the network at a time.

        Returns:
            (1, C, *S).
        """


@dataclass(frozen=True)
class Gradient(AttributionMethod):
    """Gradient of the logit."""

    name = "gradient"

    def attribute(self, logit: Logit, image: Tensor, batch_size: int) -> Tensor:
        """Signed attributions."""
        return captum.Saliency(logit).attribute(image, abs=False)


@dataclass(frozen=True)
class IntegratedGradients(AttributionMethod):
    """Gradients along the line from an image of zeros, by Gauss-Legendre quadrature.

    Zero is the mean intensity where images are normalised. Captum's weights are of float32.

    Attributes:
        steps: of the integral.

    Raises:
        ValueError: fewer than one step.
    """

    name = "integrated_gradients"
    steps: int = 32

    def __post_init__(self) -> None:
        _check_count("steps", self.steps)

    def attribute(self, logit: Logit, image: Tensor, batch_size: int) -> Tensor:
        """Signed attributions."""
        return captum.IntegratedGradients(logit).attribute(
            image, n_steps=self.steps, internal_batch_size=batch_size
        )


@dataclass(frozen=True)
class SmoothedGradient(AttributionMethod):
    """Mean gradient at copies with white noise.

    Attributes:
        samples: number of noisy copies.
        noise: standard deviation of the noise, as a share of the image's own.

    Raises:
        ValueError: fewer than one copy, or a share that is negative or not finite.
    """

    name = "smoothgrad"
    random = True
    samples: int = 16
    noise: float = 0.1

    def __post_init__(self) -> None:
        _check_count("samples", self.samples)
        if not 0 <= self.noise < math.inf:
            raise ValueError(
                "expected noise >= 0, a share of the image's standard deviation, got "
                f"{self.noise}; for 10 % say 0.1"
            )

    def attribute(self, logit: Logit, image: Tensor, batch_size: int) -> Tensor:
        """Signed attributions."""
        return captum.NoiseTunnel(captum.Saliency(logit)).attribute(
            image.detach(),
            nt_type="smoothgrad",
            nt_samples=self.samples,
            nt_samples_batch_size=batch_size,
            stdevs=float(self.noise * image.detach().std(correction=0)),
            abs=False,
        )


@dataclass(frozen=True)
class GradCam(AttributionMethod):
    """Grad-CAM without the rectifier, interpolated linearly, the same for every channel.

    Attributes:
        layer: whose features it looks at; that of ``grad_cam_layer`` by default.
    """

    name = "grad_cam"
    layer: nn.Module | None = None

    def prepared(self, network: nn.Module, images: Tensor) -> AttributionMethod:
        """With the layer of this network."""
        return replace(self, layer=self.layer or grad_cam_layer(network, images))

    def attribute(self, logit: Logit, image: Tensor, batch_size: int) -> Tensor:
        """Signed attributions."""
        coarse = captum.LayerGradCam(logit, self.layer).attribute(image).detach()
        shape = tuple(image.shape[2:])
        fine = captum.LayerAttribution.interpolate(coarse, shape, _INTERPOLATION[len(shape)])
        return fine.expand(image.shape)


@dataclass(frozen=True)
class Occlusion(AttributionMethod):
    """Fall of the logit when a window is replaced by the mean of each channel.

    Averaged over the windows that cover a voxel. Windows move by half their size, in 3D by their
    whole size, and cover all channels.

    Attributes:
        window: its size in voxels, one number or one for each spatial axis; an eighth of each
            axis and at least 2 by default.
    """

    name = "occlusion"
    window: int | Sequence[int] | None = None

    def prepared(self, network: nn.Module, images: Tensor) -> AttributionMethod:
        """With a window for these images.

        Args:
            network: ignored.
            images: (B, C, *S).

        Returns:
            The method with ``window`` filled in.

        Raises:
            ValueError: a window that does not fit.
        """
        return replace(self, window=_window(self.window, tuple(images.shape[2:])))

    def attribute(self, logit: Logit, image: Tensor, batch_size: int) -> Tensor:
        """Signed attributions."""
        image = image.detach()
        window = _window(self.window, tuple(image.shape[2:]))
        # Half-window moves cost 2^axes times as many evaluations: 4096 for a volume, not 512.
        moves = window if len(window) > 2 else tuple(max(1, size // 2) for size in window)
        means = image.mean(dim=tuple(range(2, image.ndim)), keepdim=True)
        channels = image.shape[1]
        return captum.Occlusion(logit).attribute(
            image,
            sliding_window_shapes=(channels, *window),
            strides=(channels, *moves),
            baselines=means.expand(image.shape),
            perturbations_per_eval=batch_size,
        )


def _check_count(name: str, count: int) -> None:
    if count < 1:
        raise ValueError(f"expected {name} of at least 1, got {count}; leave it out for the usual")


def _window(window: int | Sequence[int] | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    if window is None:
        return tuple(min(size, max(2, round(size / 8))) for size in shape)
    sizes = (window,) * len(shape) if isinstance(window, int) else tuple(window)
    fits = len(sizes) == len(shape)
    if not fits or any(not 1 <= w <= n for w, n in zip(sizes, shape, strict=True)):
        raise ValueError(
            f"expected a window of 1 voxel up to the image size {shape}, got {window}; give one "
            "number, or one for each spatial axis"
        )
    return sizes


METHODS: dict[str, AttributionMethod] = {
    method.name: method
    for method in (Gradient(), IntegratedGradients(), SmoothedGradient(), GradCam(), Occlusion())
}


def as_methods(methods: Sequence[str | AttributionMethod]) -> list[AttributionMethod]:
    """Methods of these names, or the methods themselves.

    Args:
        methods: names in ``METHODS``, or objects.

    Returns:
        The methods, in the same order.

    Raises:
        ValueError: an unknown name, or none at all.

    >>> as_methods(["gradient", SmoothedGradient(samples=4)])
    [Gradient(), SmoothedGradient(samples=4, noise=0.1)]
    """
    names = [] if isinstance(methods, str) else [m for m in methods if isinstance(m, str)]
    if isinstance(methods, str) or not methods or not set(names) <= set(METHODS):
        raise ValueError(
            f"expected a list of methods from {list(METHODS)}, got {methods!r}; choose at least one"
        )
    return [METHODS[method] if isinstance(method, str) else method for method in methods]
