"""Ideas that might bring the lower bound down, each with its time, memory and error.

python -m benchmarks.ideas --output docs/performance/ideas.json
python -m benchmarks.ideas --quick        # tiny sizes, without the compiler
"""

from __future__ import annotations

import argparse
import copy
import statistics
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
from monai.networks.nets.resnet import ResNetBlock
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks.cases import (
    Case,
    densenet,
    frozen,
    lower_bound,
    reference,
    relative_error,
    resnet_2d,
    resnet_3d,
    vit,
)
from benchmarks.harness import Cell, interleave, read_options, report
from benchmarks.memory import peak_memory
from monai_ifim import Eigenspace, eigenspace

Prepared = tuple[nn.Module, Tensor]
# What is done once, and what is timed, which gives eigenvalues (B, R).
Idea = tuple[Callable[[nn.Module, Tensor], Prepared], Callable[[nn.Module, Tensor], Tensor]]


def as_it_is(network: nn.Module, images: Tensor) -> Prepared:
    """Nothing."""
    return network, images


def channels_last(network: nn.Module, images: Tensor) -> Prepared:
    """Both in the other memory format."""
    layout = torch.channels_last
    return copy.deepcopy(network).to(memory_format=layout), images.to(memory_format=layout)


def folded(network: nn.Module, images: Tensor) -> Prepared:
    """A copy of a ResNet without batch norms.

    Args:
        network: with convolutions that a batch norm follows.
        images: (B, C, *S).

    Returns:
        The copy, and the images.

    Raises:
        ValueError: no convolution is followed by a batch norm.
    """
    network = copy.deepcopy(network)
    pairs = 0
    for module in network.modules():
        pairs += _fold(module)
    if not pairs:
        raise ValueError("no batch norm follows a convolution")
    return network, images


def _fold(module: nn.Module) -> int:
    names = [("conv1", "bn1"), ("conv2", "bn2"), ("0", "1")]
    if not isinstance(module, ResNetBlock | nn.Sequential) and not hasattr(module, "bn1"):
        return 0
    pairs = 0
    for first, second in names:
        convolution, norm = getattr(module, first, None), getattr(module, second, None)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, first, fuse_conv_bn_eval(convolution, norm))
            setattr(module, second, nn.Identity())
            pairs += 1
    return pairs


def compiled(network: nn.Module, images: Tensor) -> Prepared:
    """The network through ``torch.compile``; a graph that is used K - 1 times donates no buffer."""
    from torch._functorch import config

    config.donated_buffer = False
    return torch.compile(network), images


def chunked(network: nn.Module, images: Tensor, chunk: int | str | None = None) -> Tensor:
    """``eigenspace`` with this many backward passes at a time."""
    return eigenspace(network, images, vjp_chunk=chunk).eigenvalues


def batched_gradients(network: nn.Module, images: Tensor) -> Tensor:
    """All contrasts through ``is_grads_batched``."""
    with frozen(network), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        x = images.detach().clone().requires_grad_()
        logits = network(x)
        contrasts = _contrasts(logits)
        (rows,) = torch.autograd.grad(logits, x, contrasts, is_grads_batched=True)
    return _eigenvalues(rows.transpose(0, 1), logits)


def shared_tail(network: nn.Module, images: Tensor) -> Tensor:
    """All contrasts at once from the logits to the last feature map, from there in a loop."""
    features: list[Tensor] = []
    tail = next(m for m in network.modules() if isinstance(m, nn.AdaptiveAvgPool2d))

    def cut(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        leaf = arguments[0].detach().requires_grad_()
        features.extend([arguments[0], leaf])
        return (leaf,)

    handle = tail.register_forward_pre_hook(cut)
    try:
        with frozen(network):
            x = images.detach().clone().requires_grad_()
            logits = network(x)
            contrasts, (maps, leaf) = _contrasts(logits), features
            through = torch.func.vmap(
                lambda u: torch.autograd.grad(logits, leaf, u, retain_graph=True)[0]
            )(contrasts)
            rows = [torch.autograd.grad(maps, x, u, retain_graph=True)[0] for u in through]
    finally:
        handle.remove()
    return _eigenvalues(torch.stack(rows, dim=1), logits)


def bfloat16(network: nn.Module, images: Tensor) -> Tensor:
    """``eigenspace`` under bfloat16 autocast."""
    return _half(network, images).eigenvalues


def _half(network: nn.Module, images: Tensor) -> Eigenspace:
    with torch.autocast(images.device.type, dtype=torch.bfloat16):
        return eigenspace(network, images, autocast=True)


def _contrasts(logits: Tensor) -> Tensor:
    """(K - 1, B, K): each class against the first."""
    count = logits.shape[1]
    rows = torch.eye(count)[1:] - torch.eye(count)[0]
    return rows.to(logits)[:, None].expand(-1, len(logits), -1)


def _eigenvalues(rows: Tensor, logits: Tensor) -> Tensor:
    """From the contrasts' gradients (B, K - 1, C, *S): F = S (diag p - p pᵀ) Sᵀ without class 0."""
    p = logits.detach().double().softmax(dim=1)[:, 1:]
    weights = torch.linalg.cholesky(torch.diag_embed(p) - p[:, :, None] * p[:, None, :])
    columns = weights.transpose(1, 2) @ rows.flatten(2).double()
    return torch.linalg.eigvalsh(columns @ columns.transpose(1, 2)).flip(1)


def ideas(case: Case, quick: bool) -> dict[str, Idea]:
    """By name, those that apply to the case."""
    every = case.classes - 1
    found: dict[str, Idea] = {
        "a loop (`vjp_chunk=None`)": (as_it_is, chunked),
        "`vjp_chunk='auto'`": (as_it_is, partial(chunked, chunk="auto")),
        "`vmap` in chunks of 3": (as_it_is, partial(chunked, chunk=min(3, every))),
        "`vmap` of all contrasts": (as_it_is, partial(chunked, chunk=every)),
        "`is_grads_batched`": (as_it_is, batched_gradients),
        "all at once down to the last feature map": (as_it_is, shared_tail),
        "`channels_last`": (channels_last, chunked),
        "bfloat16 autocast": (as_it_is, bfloat16),
    }
    if case.name.startswith("ResNet"):
        found["batch norms folded into convolutions"] = (folded, chunked)
        if not quick:
            found["`torch.compile`"] = (compiled, chunked)
    return found


def batches(options: argparse.Namespace) -> list[list[Cell]]:
    """Batches of backward passes as ratio to the loop, one row a network and size."""
    cases = [
        case(size, 10, batch)
        for case in (resnet_2d, densenet, partial(vit, hidden=384))
        for size, batch in ((64, 1), (128, 1), (64, 4), (224, 1))
    ]
    cases += [resnet_3d(24, 10, 1), resnet_3d(32, 10, 1)]
    rows: list[list[Cell]] = []
    for case in [resnet_2d(32, 4, 2)] if options.quick else cases:
        network, images = case.build(options.device)
        chunks = {"loop": None, "all": case.classes - 1, "auto": "auto"}
        times = interleave(
            {name: partial(chunked, network, images, chunk=c) for name, c in chunks.items()},
            options,
        )
        ratios = [times.ratio(name, "loop") for name in ("all", "auto")]
        rows.append([case.name, images.numel(), times.spread("loop"), *ratios])
    return rows


def _prepared(idea: Idea, network: nn.Module, images: Tensor) -> Tensor:
    prepare, run = idea
    return run(*prepare(network, images))


def projector_error(case: Case, device: torch.device) -> float:
    """Sine between the leading eigenvectors of bfloat16 and float32, median over the images."""
    network, images = case.build(device)
    exact, half = (f(network, images).eigenvectors[:, 0] for f in (eigenspace, _half))
    cosine = (exact * half).flatten(1).double().sum(dim=1)
    return statistics.median((1 - cosine.square()).clamp_min(0).sqrt().tolist())


def measure(case: Case, options: argparse.Namespace) -> list[list[Cell]]:
    """One row an idea."""
    network, images = case.build(options.device)
    exact = reference(network, images[:2]).cpu()
    chosen = ideas(case, options.quick)
    rows: dict[str, list[Cell]] = {}
    functions = {"lower bound": partial(lower_bound, network, images)}
    for name, (prepare, run) in chosen.items():
        peak = peak_memory(case.build, partial(_prepared, (prepare, run)), options.device)
        error = None if peak.failure else relative_error(peak.value, exact)
        rows[name] = [case.name, name, peak.failure, error, peak.cell]
        if not peak.failure:
            functions[name] = partial(run, *prepare(network, images))
    times = interleave(functions, options)
    for name, row in rows.items():
        row[2] = row[2] or times.ratio(name, "lower bound")
    return list(rows.values())


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    options = read_options(__doc__, argv, repeats=3, seconds=15)
    cases = (
        [resnet_2d(32, 4, 2)] if options.quick else [densenet(224, 10, 1), resnet_2d(224, 10, 2)]
    )
    rows = [row for case in cases for row in measure(case, options)]
    small = batches(options)
    sines = [f"{projector_error(case, options.device):.2g} ({case.name})" for case in cases]
    report(
        options,
        "ideas",
        title="Ideas that were tried",
        claim="Ways to have the K − 1 backward passes for less, as ratio to the lower bound, with "
        "their memory and their error.",
        columns=["network and images", "idea", "ratio", "error of λ₁", "peak MB"],
        rows=rows,
        tables=[
            {
                "heading": "Backward passes in batches, as ratio to the loop:",
                "columns": [
                    "network and images",
                    "values",
                    "loop, s",
                    "`vmap` of all contrasts",
                    "`vjp_chunk='auto'`",
                ],
                "rows": small,
            }
        ],
        notes=[
            "`vjp_chunk='auto'` batches while the images have at most 16384 values in all.",
            "Error: of float32 against float64, median of the first two images at most.",
            "Peak MB: beyond network and images, in a process of its own, with the idea's own "
            "preparation (copies of the network, compiling).",
            "The leading eigenvector under bfloat16 autocast is off by a sine of "
            + " and ".join(sines)
            + ".",
            "DenseNet normalises before it convolves, so its batch norms cannot be folded; "
            "`torch.compile` was tried on the ResNet alone, and its compiling is not in the ratio.",
        ],
    )


if __name__ == "__main__":
    main()
