"""Networks and images, the lower bound, and a float64 reference that shares no code with us."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from monai.networks.nets import DenseNet121, ViT, resnet18
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A network with random weights and a batch of noise; it can be pickled.

    Attributes:
        name: for the table.
        make: builds the network.
        shape: of the images, (B, C, *S).
        classes: K.
        seed: of weights and images.
        confidence: probability of the class that is predicted for the first image; None leaves
            the logits of the random weights as they are, and predictions are nearly uniform.
    """

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    seed: int = 0
    confidence: float | None = None

    def build(self, device: torch.device) -> tuple[nn.Module, Tensor]:
        """The network in eval mode, with parameters that require gradients, and the images.

        Args:
            device: where.

        Returns:
            Both; the same for every call.
        """
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            network = self.make().eval()
            images = torch.randn(self.shape)
        if self.confidence is not None:
            with torch.no_grad():
                logits = network(images)[0]
            network = Confident(network, logits, self.confidence)
        return network.to(device), images.to(device)


class Confident(nn.Module):
    """A network whose bias for the class that it predicts is raised; its gradients are the same."""

    def __init__(self, network: nn.Module, logits: Tensor, confidence: float) -> None:
        super().__init__()
        self.network = network
        first = int(logits.argmax())
        rest = torch.cat([logits[:first], logits[first + 1 :]]).logsumexp(dim=0)
        bias = torch.zeros_like(logits)
        bias[first] = math.log(confidence / (1 - confidence)) + rest - logits[first]
        self.register_buffer("bias", bias)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.network(images) + self.bias


class LogitsOfViT(nn.Module):
    """MONAI's ViT returns its hidden states, too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.network(images)[0]


def _vit(size: int, classes: int, hidden: int, layers: int) -> nn.Module:
    vit = ViT(
        in_channels=1,
        img_size=size,
        patch_size=16,
        hidden_size=hidden,
        mlp_dim=4 * hidden,
        num_layers=layers,
        num_heads=hidden // 64,
        classification=True,
        num_classes=classes,
        post_activation=None,  # logits, not their tanh
        spatial_dims=2,
    )
    return LogitsOfViT(vit)


def _tiny(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


def tiny(size: int, classes: int, batch: int, confidence: float | None = None) -> Case:
    """Two convolutions, for smoke tests."""
    name = f"tiny {size}², K={classes}, batch {batch}{_sure(confidence)}"
    make = partial(_tiny, classes)
    return Case(name, make, (batch, 1, size, size), classes, confidence=confidence)


def _sure(confidence: float | None) -> str:
    return "" if confidence is None else f", 1 − p = {1 - confidence:.0e}"


def densenet(size: int, classes: int, batch: int, confidence: float | None = None) -> Case:
    """DenseNet121 of flat images."""
    name = f"DenseNet121 {size}², K={classes}, batch {batch}{_sure(confidence)}"
    make = partial(DenseNet121, 2, 1, classes)
    return Case(name, make, (batch, 1, size, size), classes, confidence=confidence)


def resnet_2d(size: int, classes: int, batch: int, confidence: float | None = None) -> Case:
    """ResNet-18 of flat images, with the usual stride of 2 in its first convolution."""
    name = f"ResNet-18 {size}², K={classes}, batch {batch}{_sure(confidence)}"
    make = partial(
        resnet18, spatial_dims=2, n_input_channels=1, num_classes=classes, conv1_t_stride=2
    )
    return Case(name, make, (batch, 1, size, size), classes, confidence=confidence)


def resnet_3d(size: int, classes: int, batch: int) -> Case:
    """ResNet-18 of volumes, as MONAI builds it."""
    name = f"ResNet-18 {size}³, K={classes}, batch {batch}"
    make = partial(resnet18, spatial_dims=3, n_input_channels=1, num_classes=classes)
    return Case(name, make, (batch, 1, size, size, size), classes)


def vit(size: int, classes: int, batch: int, hidden: int = 768, layers: int = 12) -> Case:
    """ViT with patches of 16; base by default, small with 384 hidden units."""
    kind = {768: "ViT-base", 384: "ViT-small"}.get(hidden, f"ViT-{hidden}")
    name = f"{kind} {size}², K={classes}, batch {batch}"
    make = partial(_vit, size, classes, hidden, layers)
    return Case(name, make, (batch, 1, size, size), classes)


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient inside."""
    flags = [(p, p.requires_grad) for p in network.parameters()]
    network.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def lower_bound(network: nn.Module, images: Tensor) -> None:
    """One forward pass that keeps its graph and K - 1 input-only backward passes, nothing else."""
    with frozen(network):
        x = images.detach().requires_grad_()
        logits = network(x)
        for c in range(1, logits.shape[1]):
            torch.autograd.grad((logits[:, c] - logits[:, 0]).sum(), x, retain_graph=True)


def plain_forward(network: nn.Module, images: Tensor) -> None:
    """The prediction alone."""
    with torch.no_grad():
        network(images)


def reference(network: nn.Module, images: Tensor) -> Tensor:
    """Eigenvalues of F in float64, one image at a time.

    F = sum over pairs of classes of p_c p_k d dᵀ with d = grad(z_c - z_k): positive terms only, so
    that nothing cancels however confident the prediction is.

    Args:
        network: in eval mode; a copy is used.
        images: (B, C, *S).

    Returns:
        (B, K - 1), descending.
    """
    double = copy.deepcopy(network).double().requires_grad_(False)
    return torch.stack([_reference(double, image[None].double()) for image in images])


def _reference(network: nn.Module, image: Tensor) -> Tensor:
    x = image.detach().requires_grad_()
    logits = network(x)[0]
    rows = [torch.autograd.grad(z, x, retain_graph=True)[0].flatten() for z in logits]
    jacobian, p = torch.stack(rows), logits.detach().softmax(dim=0)
    c, k = torch.triu_indices(len(p), len(p), 1)
    pairs = (p[c] * p[k]).sqrt()[:, None] * (jacobian[c] - jacobian[k])
    return torch.linalg.eigvalsh(pairs @ pairs.T).flip(0)[: len(p) - 1]


def relative_error(values: Sequence[Sequence[float]], exact: Tensor, index: int = 0) -> float:
    """Median over the images of the relative error of one eigenvalue.

    A median, because rounding can flip one ReLU or max-pool of one image at its kink, and that
    image's gradient then jumps.

    Args:
        values: eigenvalues (B, R) that were computed.
        exact: (b, K - 1) with b <= B: the reference of the first images.
        index: which eigenvalue; -1 is the smallest.

    Returns:
        The error.
    """
    pairs = zip(values, exact.tolist(), strict=False)
    return statistics.median(abs(v[index] - e[index]) / e[index] for v, e in pairs)
