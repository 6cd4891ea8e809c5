"""The layer of a network that Grad-CAM looks at."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import dropout, padding

from monai_ifim.core import as_leaf, at_rest, unwrap
from monai_ifim.core.checks import check_images

# Attention weights (b, heads, n, n) pass through the first two and look like features of an image;
# padding turns features of one position into several, which do not lie on the image's grid.
# Modules inside a scripted one take no hooks.
_NOT_FEATURES = (
    *(dropout._DropoutNd, nn.Softmax, padding._ConstantPadNd, padding._ReflectionPadNd),
    *(padding._ReplicationPadNd, padding._CircularPadNd, torch.jit.ScriptModule),
)


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


def _has_positions(output: Tensor, image: Tensor) -> bool:
    # One image was passed in: einops layers that put q, k, v first have 3 rows.
    if output.ndim != image.ndim or len(output) != 1:
        return False
    sizes = zip(output.shape[2:], image.shape[2:], strict=True)
    return all(positions >= min(2, size) for positions, size in sizes)
