"""The ten leading eigenpairs of a thousand classes, against all 999 contrasts.

    python -m benchmarks.large_k --output docs/performance/large_k.json
    python -m benchmarks.large_k --quick        # tiny sizes, as a smoke test

``rank=10`` alone is what a user would write: the method follows from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cases import frozen, resnet_2d
from benchmarks.harness import Cell, read_options, reason, report
from monai_ifim import Eigenspace, eigenspace

# Logits times these: a thousand nearly equal probabilities, a few dozen that count, one at 0.99.
SCALES = {"flat": 1.0, "peaked": 20.0, "confident": 60.0}
COLUMNS = [
    "method",
    "s",
    "of all contrasts",
    "backward passes",
    "Jacobian-vector products",
    "error of eigenvalues",
    "largest angle",
    "stated residual",
]


class Scaled(nn.Module):
    """A network whose last layer is sharper: its own, so that the graph still shows it."""

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network = network
        with torch.no_grad():
            network.fc.weight.mul_(scale)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.network(images)


def hidden(logits: Tensor) -> Tensor:
    """The same logits; the last layer is not the last operation of the graph any more."""
    return logits * 1.0


def arpack(network: nn.Module, images: Tensor, rank: int) -> tuple[Tensor, Tensor, int]:
    """SciPy's ``eigsh`` on F v = Jᵀ(M(J v)): eigenvalues (R,), vectors (N, R), products."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    products = 0
    with frozen(network):
        x = images.detach().requires_grad_()
        logits = network(x)
        p = logits.detach().softmax(dim=1)

        def product(v: np.ndarray) -> np.ndarray:
            nonlocal products
            products += 1
            change = torch.from_numpy(v).to(images).view_as(images)
            jv = torch.func.jvp(network, (images,), (change,))[1]
            mjv = p * (jv - (p * jv).sum(dim=1, keepdim=True))
            gradient = torch.autograd.grad(logits, x, mjv, retain_graph=True)[0]
            return gradient.flatten().double().cpu().numpy()

        size = images.numel()
        operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
        start = np.random.default_rng(0).standard_normal(size)
        values, vectors = eigsh(operator, k=rank, tol=1e-3, v0=start)
    order = np.argsort(-values)
    return torch.from_numpy(values[order]), torch.from_numpy(vectors[:, order].copy()), products


def seconds(function: Callable[[], Eigenspace]) -> tuple[Eigenspace, float]:
    """Result and wall-clock time of one call."""
    start = time.perf_counter()
    space = function()
    if space.gradients.device.type == "cuda":
        torch.cuda.synchronize()
    return space, time.perf_counter() - start


def errors(values: Tensor, vectors: Tensor, exact: Eigenspace) -> tuple[float, float]:
    """Largest relative error of the eigenvalues (R,), and the largest angle of the rows (R, N)."""
    rank = int((exact.eigenvalues[0, : len(values)] > 0).sum())
    truth = exact.eigenvalues[0, :rank].cpu()
    span = exact.eigenvectors[0, :rank].flatten(1).double().cpu()
    ours = vectors[:rank].double().cpu()
    rest = ours - (ours @ span.T) @ span
    angle = torch.linalg.svdvals(rest).max().clamp(max=1).asin()
    return float(((values[:rank].cpu() - truth) / truth).abs().max()), float(angle)


def table(network: nn.Module, images: Tensor, rank: int, base: float | None) -> list[list[Cell]]:
    """Rows of one prediction; all contrasts are run where nobody knows yet how long they take."""
    eigenspace(network, images, rank=rank)  # warms up
    exact, taken = seconds(lambda: eigenspace(network, images, method="exact"))
    rows: list[list[Cell]] = []
    passes = exact.gradients.shape[1]
    through = ["`method='exact'`: through the last layer", taken, 1.0, passes, 0, None, None, None]
    if base is None:
        through[5:7] = exact.eigenvalues[0, :rank], exact.eigenvectors[0, :rank].flatten(1)
        exact, base = seconds(lambda: eigenspace(network, images, output_transform=hidden))
        through[5:7] = errors(through[5], through[6], exact)
        count = exact.gradients.shape[1]
        rows.append(["all contrasts", base, 1.0, count, 0, None, None, None])
    through[2] = taken / base
    rows.append(through)
    methods = {
        f"`rank={rank}`": {"rank": rank},
        f"`rank={rank}`, last layer hidden": {"rank": rank, "output_transform": hidden},
        "`tolerance=1e-3`: truncated": {"method": "truncated", "tolerance": 1e-3, "rank": rank},
    }
    for name, choice in methods.items():
        space, best = seconds(lambda c=choice: eigenspace(network, images, **c))
        if best < 5:
            best = min(best, seconds(lambda c=choice: eigenspace(network, images, **c))[1])
        vectors = space.eigenvectors[0].flatten(1)
        error, angle = errors(space.eigenvalues[0, :rank], vectors[:rank], exact)
        made = space.approximation
        passes = made.vector_jacobian_products if made else space.gradients.shape[1]
        forwards = made.jacobian_vector_products if made else 0
        residual = float(made.residual.max()) if made and made.residual.isfinite().all() else None
        rows.append([name, best, best / base, passes, forwards, error, angle, residual])
    try:
        start = time.perf_counter()
        values, vectors, products = arpack(network, images, rank)
        taken = time.perf_counter() - start
        error, angle = errors(values, vectors.T, exact)
        name = "SciPy's ARPACK on the same products, `tol=1e-3`"
        rows.append([name, taken, taken / base, products, products, error, angle, None])
    except Exception as failure:  # SciPy missing, or no convergence
        rows.append(["SciPy's ARPACK", reason(failure), None, None, None, None, None, None])
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    options = read_options(__doc__, argv)
    size, classes, rank = (32, 100, 3) if options.quick else (224, 1000, 10)
    tables, base = [], None
    for name, scale in SCALES.items():
        network, images = resnet_2d(size, classes, 1).build(options.device)
        network = Scaled(network, scale).eval()
        with torch.no_grad():
            top = network(images).softmax(dim=1).sort(descending=True).values[0, :3]
        heading = f"{name}: probabilities {', '.join(f'{p:.2g}' for p in top.tolist())}, …"
        rows = table(network, images, rank, base)
        base = rows[0][1] if base is None else base
        tables.append({"heading": heading, "columns": COLUMNS, "rows": rows})
    ours = [next(r for r in t["rows"] if r[0] == f"`rank={rank}`") for t in tables]
    report(
        options,
        "large_k",
        title="A thousand classes",
        claim=f"The {rank} leading eigenpairs of {classes} classes cost "
        + ", ".join(f"1/{1 / row[2]:.0f} ({n})" for n, row in zip(SCALES, ours, strict=True))
        + f" of the time of all {classes - 1} contrasts, with eigenvalues within "
        f"{max(row[5] for row in ours):.0e} and angles below {max(row[6] for row in ours):.0e}.",
        columns=["prediction", "time of all contrasts, s", f"`rank={rank}`, s", "ratio"],
        rows=[[n, base, row[1], row[2]] for n, row in zip(SCALES, ours, strict=True)],
        tables=tables,
        notes=[
            f"ResNet-18, {size}², one image, random weights, logits scaled by "
            + ", ".join(f"{value:g} ({name})" for name, value in SCALES.items())
            + ". All contrasts were run for the first prediction alone: their time does not depend "
            "on it. Errors are against them there, and against the exact method for the others; "
            "angles in radians. Runs below five seconds: the better of two.",
            "A confident prediction has fewer directions above the rounding than were asked for: "
            "they are returned, and nothing else.",
        ],
        packages=["scipy"],
    )


if __name__ == "__main__":
    main()
