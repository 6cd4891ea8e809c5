"""Attribution maps of a prediction by the established methods, through captum.

Every image is attributed on its own, so that its maps do not depend on the rest of the batch;
what a method has to evaluate for it (steps, noisy copies, windows) is batched instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import (
    IntegratedGradients,
    LayerAttribution,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from torch import Tensor, nn
from torch.nn.modules import dropout, padding

from monai_ifim.core import (
    Likelihood,
    OutputTransform,
    as_leaf,
    as_likelihood,
    at_rest,
    run_forward,
    unwrap,
)
from monai_ifim.core.checks import check_finite_images, check_finite_logits, check_images

METHODS = ("gradient", "integrated_gradients", "smoothgrad", "grad_cam", "occlusion")

# Voxels evaluated at a time when no batch size is given: one volume of 64 x 64 x 64.
_VOXELS = 1 << 18
_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}
# Attention weights (b, heads, n, n) pass through the first two and look like features of an image;
# padding turns features of one position into several, which do not lie on the image's grid.
# Modules inside a scripted one take no hooks.
_NOT_FEATURES = (
    *(dropout._DropoutNd, nn.Softmax, padding._ConstantPadNd, padding._ReflectionPadNd),
    *(padding._ReplicationPadNd, padding._CircularPadNd, torch.jit.ScriptModule),
)


def attribution_maps(
    network: nn.Module,
    images: Tensor,
    generator: torch.Generator,
    *,
    likelihood: str | Likelihood = "categorical",
    output_transform: OutputTransform | None = None,
    methods: Sequence[str] = METHODS,
    steps: int = 32,
    samples: int = 16,
    noise: float = 0.1,
    window: int | Sequence[int] | None = None,
    batch_size: int | None = None,
) -> dict[str, Tensor]:
    """Signed attributions of the logit of each image's predicted outcome.

    The logit is that of the most probable class; for a Bernoulli family that of the label whose
    logit is largest in absolute value, times its sign, so that a positive attribution always
    speaks for the outcome that was predicted.

    - ``gradient``: of the logit.
    - ``integrated_gradients``: along the line from an image of zeros (the mean intensity, where
      images are normalised), by Gauss-Legendre quadrature; captum's weights are of float32.
    - ``smoothgrad``: mean gradient at copies with white noise of ``noise`` times the standard
      deviation of the image.
    - ``grad_cam``: at ``grad_cam_layer``, without the rectifier, interpolated linearly to the
      image and the same for every channel.
    - ``occlusion``: fall of the logit when a window is replaced by the mean of each channel,
      averaged over the windows that cover a voxel. Windows move by half their size, in 3D by
      their whole size, and cover all channels.

    Args:
        network: the classifier; left as it was.
        images: (B, C, *S), floating point.
        generator: of the noise, on the CPU; used by ``smoothgrad`` alone. The same state and
            batch size give the same maps on the same kind of device.
        likelihood: see ``eigenspace``.
        output_transform: see ``eigenspace``.
        methods: some of ``METHODS``.
        steps: of the integral.
        samples: noisy copies.
        noise: see ``smoothgrad``.
        window: size of the occluding window in voxels, one number or one for each spatial axis;
            an eighth of each axis and at least 2 by default.
        batch_size: evaluations of the network at a time; by default as many images as hold
            2^18 voxels, at least 1 and at most 32.

    Returns:
        (B, C, *S) by name, in the order of ``methods``, in the images' dtype, detached. A map of
        zeros is possible: a network may be locally constant.

    Raises:
        TypeError: images or output of the wrong type.
        ValueError: an unknown method, a number out of range, no layer for Grad-CAM, or values
            that are not finite.

    Source: K. Simonyan et al., ICLR workshop 2014 (gradient); M. Sundararajan et al., ICML 2017
    (integrated gradients); D. Smilkov et al., arXiv 1706.03825 (SmoothGrad); R. R. Selvaraju et
    al., ICCV 2017 (Grad-CAM); M. D. Zeiler and R. Fergus, ECCV 2014 (occlusion).

    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.LazyLinear(3))
    >>> images = torch.randn(2, 1, 6, 7)
    >>> _ = network(images)
    >>> maps = attribution_maps(network, images, torch.Generator(), methods=["occlusion"])
    >>> maps["occlusion"].shape
    torch.Size([2, 1, 6, 7])
    """
    _check_request(methods, steps, samples, noise, batch_size)
    check_images(images)
    check_finite_images(images)
    images, network = images.detach().as_subclass(Tensor), unwrap(network)
    shape = tuple(images.shape[2:])
    settings = _Settings(
        steps=steps,
        samples=samples,
        noise=noise,
        window=_window(window, shape),
        batch_size=batch_size or min(32, max(1, _VOXELS // math.prod(shape))),
        layer=grad_cam_layer(network, images) if "grad_cam" in methods else None,
    )
    found: dict[str, list[Tensor]] = {name: [] for name in methods}
    with at_rest(network, images.device):
        if "smoothgrad" in methods:
            _seed(images.device, generator)
        parts = images.split(settings.batch_size)
        passes = (run_forward(network, x, output_transform=output_transform) for x in parts)
        logits = torch.cat([forward.logits.detach() for forward in passes])
        check_finite_logits(logits)
        family = as_likelihood(likelihood)
        family.check(logits)
        outcomes = family.outcome_logits(logits)
        for image, (index, sign) in zip(images.split(1), outcomes, strict=True):
            leaf = as_leaf(image)
            logit = _outcome_logit(network, output_transform, index, sign)
            for name in methods:
                values = _FUNCTIONS[name](logit, leaf, settings).detach().to(images.dtype)
                if not bool(torch.isfinite(values).all()):
                    raise ValueError(
                        f"expected finite attributions, got NaN or infinity from {name} for image "
                        f"{len(found[name])} of the batch (counted from 0); look for sqrt, log "
                        "or a division at zero in the network's forward, or leave it out"
                    )
                found[name].append(values)
    return {name: torch.cat(values) for name, values in found.items()}


def grad_cam_layer(network: nn.Module, images: Tensor) -> nn.Module:
    """The last layer that still has the axes of an image.

    Of the layers without children, in the order of execution (a layer that is used several times
    counts where it is used last), the last one whose output is (b, c, *s) with as many spatial
    axes as the images and at least 2 positions along each. Dropout, softmax and padding layers
    are passed over. For a convolutional network that is the end of its features. For a vision
    transformer, such as MONAI's ``ViT``, whose blocks work on (b, tokens, c), it is the
    convolution of the patch embedding, before any attention: Grad-CAM from there shows little of
    what the transformer does.

    Args:
        network: the classifier; left as it was, all hooks are removed.
        images: (B, C, *S); the first one is passed through the network.

    Returns:
        The layer, a module within the network.

    Raises:
        ValueError: there is none.

    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten())
    >>> grad_cam_layer(network, torch.zeros(1, 1, 6, 7))
    ReLU()
    """
    check_images(images)
    network = unwrap(network)
    image = as_leaf(images[:1])
    usable: dict[nn.Module, bool] = {}  # in the order of the last calls

    def remember(module: nn.Module, _inputs: Any, output: Any) -> None:
        usable.pop(module, None)
        usable[module] = isinstance(output, Tensor) and _has_positions(output, image)

    with at_rest(network, images.device), torch.no_grad(), ExitStack() as hooks:
        for module in network.modules():
            if next(module.children(), None) is None and not isinstance(module, _NOT_FEATURES):
                hooks.callback(module.register_forward_hook(remember).remove)
        network(image.clone())
    for module, fits in reversed(usable.items()):
        if fits:
            return module
    raise ValueError(
        f"expected a layer with {image.ndim - 2} spatial axes of at least 2 positions for "
        f"Grad-CAM, got none in {type(network).__name__} at images {tuple(images.shape)}; use "
        "larger images and a network that is not scripted, or leave 'grad_cam' out of methods"
    )


def importance_ranks(attribution: Tensor) -> Tensor:
    """Place of each entry when its image's entries are ordered by absolute value.

    Args:
        attribution: (B, C, *S).

    Returns:
        (B, C, *S) integers, 0 for the entry that is largest in absolute value, N - 1 for the
        smallest; equal ones by position.

    Raises:
        ValueError: values that are not finite, or a map with one absolute value everywhere,
            as a map of zeros: no entry of it comes before another.

    >>> importance_ranks(torch.tensor([[[0.5, -2.0, 0.0, 0.5]]]))
    tensor([[[1, 0, 3, 2]]])
    """
    sizes = attribution.detach().as_subclass(Tensor).flatten(1).abs()
    if not bool(torch.isfinite(sizes).all()):
        raise ValueError(
            "expected finite attributions, got NaN or infinity; leave those images out"
        )
    flat = sizes.amax(dim=1) == sizes.amin(dim=1)
    if sizes.shape[1] > 1 and bool(flat.any()):
        raise ValueError(
            "expected maps whose entries can be ordered, got the same absolute value everywhere "
            f"in {int(flat.sum())} of {len(flat)} (the network may be locally constant there); "
            "leave those images out"
        )
    order = sizes.argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1).view(attribution.shape)


def top_mask(attribution: Tensor, share: float) -> Tensor:
    """The entries of each image that are largest in absolute value.

    Args:
        attribution: (B, C, *S), with N entries an image.
        share: which share of them, 0 to 1.

    Returns:
        (B, C, *S) booleans, exactly round(share N) of them true for each image, but at least
        one; of equal entries the first ones by position.

    Raises:
        ValueError: a share out of range, or maps that ``importance_ranks`` cannot order.

    >>> top_mask(torch.tensor([[[0.5, -2.0, 0.0, 0.5]]]), 0.5)
    tensor([[[ True,  True, False, False]]])
    """
    if not 0 <= share <= 1:
        raise ValueError(f"expected a share from 0 to 1, got {share}; for 10 % say 0.1")
    return importance_ranks(attribution) < max(1, round(share * attribution[0].numel()))


@dataclass(frozen=True)
class _Settings:
    steps: int
    samples: int
    noise: float
    window: tuple[int, ...]
    batch_size: int
    layer: nn.Module | None


_Logit = Callable[[Tensor], Tensor]


def _outcome_logit(
    network: nn.Module, output_transform: OutputTransform | None, index: int, sign: int
) -> _Logit:
    """The attributed logit (b,) as a function of images (b, C, *S)."""

    def logit(images: Tensor) -> Tensor:
        # The network gets a copy, because some edit their input in place.
        output = network(images.clone())
        output = output if output_transform is None else output_transform(output)
        return sign * output.flatten(1)[:, index]

    return logit


def _gradient(logit: _Logit, image: Tensor, settings: _Settings) -> Tensor:
    return Saliency(logit).attribute(image, abs=False)


def _integrated_gradients(logit: _Logit, image: Tensor, settings: _Settings) -> Tensor:
    return IntegratedGradients(logit).attribute(
        image, n_steps=settings.steps, internal_batch_size=settings.batch_size
    )


def _smoothgrad(logit: _Logit, image: Tensor, settings: _Settings) -> Tensor:
    return NoiseTunnel(Saliency(logit)).attribute(
        image.detach(),
        nt_type="smoothgrad",
        nt_samples=settings.samples,
        nt_samples_batch_size=settings.batch_size,
        stdevs=float(settings.noise * image.detach().std(correction=0)),
        abs=False,
    )


def _grad_cam(logit: _Logit, image: Tensor, settings: _Settings) -> Tensor:
    assert settings.layer is not None  # looked up for this method
    coarse = LayerGradCam(logit, settings.layer).attribute(image).detach()
    shape = tuple(image.shape[2:])
    fine = LayerAttribution.interpolate(coarse, shape, _INTERPOLATION[len(shape)])
    return fine.expand(image.shape)


def _occlusion(logit: _Logit, image: Tensor, settings: _Settings) -> Tensor:
    image = image.detach()
    channels, window = image.shape[1], settings.window
    # Half-window moves cost 2^axes times as many evaluations: 4096 for a volume, against 512.
    moves = window if len(window) > 2 else tuple(max(1, size // 2) for size in window)
    means = image.mean(dim=tuple(range(2, image.ndim)), keepdim=True)
    return Occlusion(logit).attribute(
        image,
        sliding_window_shapes=(channels, *window),
        strides=(channels, *moves),
        baselines=means.expand(image.shape),
        perturbations_per_eval=settings.batch_size,
    )


_FUNCTIONS: dict[str, Callable[[_Logit, Tensor, _Settings], Tensor]] = {
    "gradient": _gradient,
    "integrated_gradients": _integrated_gradients,
    "smoothgrad": _smoothgrad,
    "grad_cam": _grad_cam,
    "occlusion": _occlusion,
}


def _seed(device: torch.device, generator: torch.Generator) -> None:
    """Seed the global stream that captum draws from; ``at_rest`` restores it."""
    seed = int(torch.randint(2**62, (), generator=generator))
    # torch.manual_seed would also seed devices whose state nobody restores.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _has_positions(output: Tensor, image: Tensor) -> bool:
    # One image was passed in: einops layers that put q, k, v first have 3 rows.
    if output.ndim != image.ndim or len(output) != 1:
        return False
    sizes = zip(output.shape[2:], image.shape[2:], strict=True)
    return all(positions >= min(2, size) for positions, size in sizes)


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


def _check_request(
    methods: Sequence[str], steps: int, samples: int, noise: float, batch_size: int | None
) -> None:
    if isinstance(methods, str) or not methods or not set(methods) <= set(METHODS):
        raise ValueError(
            f"expected a list of methods from {METHODS}, got {methods!r}; choose at least one"
        )
    if min(steps, samples, 1 if batch_size is None else batch_size) < 1:
        raise ValueError(
            f"expected steps, samples and batch_size of at least 1, got {steps}, {samples} and "
            f"{batch_size}; leave them out for the defaults"
        )
    if not 0 <= noise < math.inf:
        raise ValueError(
            f"expected noise >= 0, a share of the image's standard deviation, got {noise}; "
            "for 10 % say 0.1"
        )
