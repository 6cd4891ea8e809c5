"""The networks that the experiments train, from MONAI."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from monai.networks.nets import Classifier, DenseNet, DenseNet121, EfficientNetBN, ResNet, ViT
from torch import Tensor, nn

Shape = Sequence[int]


class FirstOutput(nn.Module):
    """The first of the outputs of a network that returns several.

    Args:
        network: returns a tuple, logits first, as MONAI's ViT does.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, *S)."""
        output: Tensor = self.network(images)[0]
        return output


def build_network(
    name: str, shape: Shape, classes: int, width: int | None = None, *, max_pool: bool = True
) -> nn.Module:
    """An untrained network; its weights come from torch's global random state.

    Args:
        name: ``cnn`` (four strided convolutions and one linear layer), ``resnet18``,
            ``densenet121``, ``densenet41`` (blocks of 2, 4, 8 and 4 layers), ``efficientnet_b0``
            or ``vit`` (64 patches, six layers).
        shape: of one image, (C, *S).
        classes: number of logits.
        width: channels of the first stage of ``cnn`` (16 by default) and ``resnet18`` (64),
            channels that each layer of ``densenet121`` and ``densenet41`` adds (32), size of the
            tokens of ``vit`` (96).
        max_pool: keep the max-pooling after the first convolution of ``resnet18``,
            ``densenet121`` and ``densenet41``. Of a noisy image it passes on the noise's maxima.

    Returns:
        The network, (B, C, *S) to logits (B, classes).

    Raises:
        ValueError: unknown name, a width where there is none to choose, no max-pooling to leave
            out, or images that the network cannot take.

    >>> import torch
    >>> build_network("cnn", (1, 32, 32), 2)(torch.zeros(3, 1, 32, 32)).shape
    torch.Size([3, 2])
    """
    if name not in _BUILDERS:
        raise ValueError(
            f"expected an architecture in {sorted(_BUILDERS)}, got {name!r}; choose one of them"
        )
    if width is not None and name == "efficientnet_b0":
        raise ValueError(f"expected no width for {name}, got {width}; leave it out")
    if not max_pool and name not in _POOLS:
        raise ValueError(
            f"expected max_pool: true for {name}, got false; only {sorted(_POOLS)} can leave it out"
        )
    smallest = 32 if name in _DEEP else 16
    if min(shape[1:]) < smallest:
        raise ValueError(
            f"expected at least {smallest} pixels along every axis for {name}, got "
            f"{tuple(shape[1:])}; choose another architecture, or pad the images"
        )
    network = _BUILDERS[name](tuple(shape), classes, width)
    if not max_pool:
        parent, _, child = _POOLS[name].rpartition(".")
        setattr(network.get_submodule(parent), child, nn.Identity())
    return network


def _cnn(shape: Shape, classes: int, width: int | None) -> nn.Module:
    first = width or 16
    return Classifier(
        in_shape=tuple(shape),
        classes=classes,
        channels=(first, 2 * first, 4 * first, 4 * first),
        strides=(2, 2, 2, 1),
        kernel_size=3 if len(shape) == 4 else 5,
        num_res_units=0,
        act="relu",
        norm="batch",
    )


def _resnet18(shape: Shape, classes: int, width: int | None) -> nn.Module:
    first = width or 64
    return ResNet(
        "basic",
        [2, 2, 2, 2],
        [first, 2 * first, 4 * first, 8 * first],
        spatial_dims=len(shape) - 1,
        n_input_channels=shape[0],
        conv1_t_stride=2,
        num_classes=classes,
    )


def _densenet121(shape: Shape, classes: int, width: int | None) -> nn.Module:
    growth = width or 32
    return DenseNet121(
        len(shape) - 1, shape[0], classes, init_features=2 * growth, growth_rate=growth
    )


def _densenet41(shape: Shape, classes: int, width: int | None) -> nn.Module:
    growth = width or 32
    return DenseNet(
        len(shape) - 1,
        shape[0],
        classes,
        init_features=2 * growth,
        growth_rate=growth,
        block_config=(2, 4, 8, 4),
    )


def _efficientnet_b0(shape: Shape, classes: int, width: int | None) -> nn.Module:
    return EfficientNetBN(
        "efficientnet-b0",
        pretrained=False,
        spatial_dims=len(shape) - 1,
        in_channels=shape[0],
        num_classes=classes,
    )


def _vit(shape: Shape, classes: int, width: int | None) -> nn.Module:
    tokens = width or 96
    per_axis = 8 if len(shape) == 3 else 4
    patch = tuple(math.gcd(size, size // per_axis) for size in shape[1:])
    return FirstOutput(
        ViT(
            in_channels=shape[0],
            img_size=tuple(shape[1:]),
            patch_size=patch,
            hidden_size=tokens,
            mlp_dim=2 * tokens,
            num_layers=6,
            num_heads=6,
            classification=True,
            num_classes=classes,
            post_activation="none",
            spatial_dims=len(shape) - 1,
        )
    )


_BUILDERS: dict[str, Callable[[Shape, int, int | None], nn.Module]] = {
    "cnn": _cnn,
    "resnet18": _resnet18,
    "densenet121": _densenet121,
    "densenet41": _densenet41,
    "efficientnet_b0": _efficientnet_b0,
    "vit": _vit,
}
ARCHITECTURES = tuple(_BUILDERS)
# Where the max-pooling after the first convolution is.
_POOLS = {"resnet18": "maxpool", "densenet121": "features.pool0", "densenet41": "features.pool0"}
MAX_POOLED = tuple(_POOLS)
# They halve an image five times.
_DEEP = ("densenet121", "densenet41", "efficientnet_b0")
