"""Other ways to the eigenvalues of F, as somebody would write them with each tool.

Every function takes a network in eval mode, whose parameters require gradients as after training,
and images (B, C, *S), and returns eigenvalues (B, R) in descending order. The small algebra after
the gradients is in float64 for all of them, so that errors are those of the gradients.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import torch
from torch import Tensor, nn

from benchmarks.cases import frozen
from monai_ifim import eigenspace

Method = Callable[[nn.Module, Tensor], Tensor]


def ours(network: nn.Module, images: Tensor) -> Tensor:
    """``monai_ifim.eigenspace``."""
    return eigenspace(network, images).eigenvalues


def log_probabilities(network: nn.Module, images: Tensor) -> Tensor:
    """The textbook: a loop over grad log p_c, weighted by the root of p_c."""
    x = images.detach().clone().requires_grad_()
    logs = network(x).log_softmax(dim=1)
    columns = [torch.autograd.grad(z.sum(), x, retain_graph=True)[0] for z in logs.T]
    roots = (logs.detach() / 2).exp().double()
    return _spectrum(torch.stack(columns, dim=1).flatten(2).double() * roots[:, :, None])


def jacrev(network: nn.Module, images: Tensor) -> Tensor:
    """``torch.func.jacrev`` of the logits summed over the batch, whose images are independent."""

    def summed(x: Tensor) -> tuple[Tensor, Tensor]:
        logits = network(x)
        return logits.sum(dim=0), logits

    jacobian, logits = torch.func.jacrev(summed, has_aux=True)(images)
    return _of_jacobian(jacobian.transpose(0, 1), logits)


def vmap_jacrev(network: nn.Module, images: Tensor) -> Tensor:
    """``torch.func.vmap`` of ``jacrev`` over the images."""

    def single(image: Tensor) -> tuple[Tensor, Tensor]:
        logits = network(image[None])[0]
        return logits, logits

    jacobian, logits = torch.func.vmap(torch.func.jacrev(single, has_aux=True))(images)
    return _of_jacobian(jacobian, logits)


def functional_jacobian(network: nn.Module, images: Tensor) -> Tensor:
    """``torch.autograd.functional.jacobian`` of the summed logits; it gives no logits."""
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x).sum(dim=0), images)
    return _of_jacobian(jacobian.transpose(0, 1), _logits(network, images))


def captum_saliency(network: nn.Module, images: Tensor) -> Tensor:
    """``Saliency`` of captum with its sign, once a class."""
    from captum.attr import Saliency

    saliency = Saliency(network)
    x, logits = images.detach().clone().requires_grad_(), _logits(network, images)
    classes = range(logits.shape[1])
    rows = [saliency.attribute(x, target=c, abs=False).detach() for c in classes]
    return _of_jacobian(torch.stack(rows, dim=1), logits)


def monai_vanilla_grad(network: nn.Module, images: Tensor) -> Tensor:
    """``VanillaGrad`` of MONAI, once an image and class; it leaves gradients in the parameters."""
    from monai.visualize import VanillaGrad

    visualizer, logits = VanillaGrad(network), _logits(network, images)
    classes = range(logits.shape[1])
    rows = [
        torch.cat([visualizer(image[None].clone(), index=torch.tensor(c)) for c in classes])
        for image in images
    ]
    network.zero_grad(set_to_none=True)
    return _of_jacobian(torch.stack(rows), logits)


def plenoptic_svd(network: nn.Module, images: Tensor) -> Tensor:
    """``Eigendistortion`` of plenoptic with ``randomized_svd``, image by image."""
    return _plenoptic(network, images, "randomized_svd")


def plenoptic_power(network: nn.Module, images: Tensor) -> Tensor:
    """``Eigendistortion`` of plenoptic with ``power``, at most 15 steps, image by image."""
    return _plenoptic(network, images, "power", max_iter=15, stop_criterion=0)


def curvlinops_ggn(network: nn.Module, images: Tensor) -> Tensor:
    """GGN of curvlinops with the image as the parameter, and SciPy's ``eigsh``.

    For the cross entropy of a softmax the generalised Gauss-Newton matrix is the Fisher matrix,
    for every label.

    Returns:
        Eigenvalues (B, K - 1), descending.
    """
    from curvlinops import GGNLinearOperator
    from scipy.sparse.linalg import eigsh

    values = []
    for image in images:
        model = _ImageAsParameter(network, image[None])
        label = torch.zeros(1, dtype=torch.long, device=image.device)
        operator = GGNLinearOperator(
            model,
            nn.CrossEntropyLoss(reduction="sum"),
            [model.image],
            [(image.new_zeros(1, 1), label)],
            check_deterministic=False,
        )
        rank = _logits(network, image[None]).shape[1] - 1
        found = eigsh(operator.to_scipy(), k=rank, tol=1e-4, return_eigenvectors=True)[0]
        values.append(torch.tensor(found[::-1].copy(), dtype=torch.float64))
    return torch.stack(values)


def nngeometry_gram(network: nn.Module, images: Tensor) -> Tensor:
    """``FIM`` of nngeometry as a Gram matrix, the image as the weight of a linear layer."""
    from nngeometry.layercollection import LayerCollection
    from nngeometry.metrics import FIM
    from nngeometry.object import FMatDense
    from torch.utils.data import DataLoader, TensorDataset

    values = []
    with frozen(network):
        for image in images:
            model = _ImageAsWeight(network, image[None])
            layers = LayerCollection()
            layers.add_layer_from_model(model, model.image)
            loader = DataLoader(TensorDataset(image.new_ones(1, 1)), batch_size=1)
            gram = FIM(
                model,
                loader,
                FMatDense,
                variant="classif_logits",
                device=image.device,
                layer_collection=layers,
            ).to_torch()
            rank = gram.shape[0]
            values.append(torch.linalg.eigvalsh(gram.reshape(rank, rank).double()).flip(0))
    return torch.stack(values)


class _ImageAsParameter(nn.Module):
    """The network at one image; its input is ignored."""

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.network, self.image = network, nn.Parameter(image.clone())
        self.training = False

    def forward(self, _: Tensor) -> Tensor:
        return self.network(self.image)


class _ImageAsWeight(nn.Module):
    """The network at the image that a linear layer makes of a one."""

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.network, self.shape = network, image.shape[1:]
        self.image = nn.Linear(1, image.numel(), bias=False, device=image.device)
        with torch.no_grad():
            self.image.weight.copy_(image.reshape(-1, 1))
        self.training = False

    def forward(self, one: Tensor) -> Tensor:
        return self.network(self.image(one).view(-1, *self.shape))


class _TwiceTheRoots(nn.Module):
    """2 √p, whose JᵀJ is the Fisher matrix of the softmax."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        return 2 * (self.network(images).log_softmax(dim=1) / 2).exp()


def _plenoptic(network: nn.Module, images: Tensor, method: str, **kwargs: float) -> Tensor:
    import plenoptic

    values = []
    with frozen(network), _silent(), torch.random.fork_rng():
        torch.manual_seed(0)
        for image in images:
            rank = _logits(network, image[None]).shape[1] - 1
            found = plenoptic.Eigendistortion(image[None].clone(), _TwiceTheRoots(network))
            found.synthesize(method=method, k=rank, **kwargs)
            values.append(found.eigenvalues[:rank].double())
    return torch.stack(values)


@contextmanager
def _silent() -> Iterator[None]:
    """Progress bars and advice that are no result."""
    with (
        warnings.catch_warnings(),
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


@torch.no_grad()
def _logits(network: nn.Module, images: Tensor) -> Tensor:
    return network(images)


def _of_jacobian(jacobian: Tensor, logits: Tensor) -> Tensor:
    """Eigenvalues from J (B, K, C, *S): the columns √p_c (grad z_c - sum of p_k grad z_k)."""
    rows, p = jacobian.detach().flatten(2).double(), logits.detach().double().softmax(dim=1)
    centred = rows - torch.einsum("bk,bkn->bn", p, rows)[:, None]
    return _spectrum(p.sqrt()[:, :, None] * centred)


def _spectrum(rows: Tensor) -> Tensor:
    """Eigenvalues of the sum of r rᵀ over the rows r of (B, K, N), without the one that is 0."""
    return torch.linalg.eigvalsh(rows @ rows.transpose(1, 2)).flip(1)[:, :-1]


# Name, function, the distribution that it needs, and whether it costs hundreds of passes.
METHODS: Sequence[tuple[str, Method, str | None, bool]] = (
    ("`monai_ifim.eigenspace`", ours, None, False),
    ("loop over log p_c", log_probabilities, None, False),
    ("`torch.func.jacrev`", jacrev, None, False),
    ("`vmap(jacrev)`", vmap_jacrev, None, False),
    ("`autograd.functional.jacobian`", functional_jacobian, None, False),
    ("captum `Saliency` × K", captum_saliency, "captum", False),
    ("MONAI `VanillaGrad` × K × B", monai_vanilla_grad, None, False),
    ("nngeometry `FIM`, Gram", nngeometry_gram, "nngeometry", True),
    ("curvlinops GGN, `eigsh`", curvlinops_ggn, "curvlinops-for-pytorch", True),
    ("plenoptic `randomized_svd`", plenoptic_svd, "plenoptic", True),
    ("plenoptic `power`, 15 steps", plenoptic_power, "plenoptic", True),
)
