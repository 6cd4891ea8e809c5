"""What the iFIM adds to a validation epoch of MONAI.

    python -m benchmarks.epoch --output docs/performance/epoch.json
    python -m benchmarks.epoch --pictures     # what IFIMEpochLog adds to an epoch
    python -m benchmarks.epoch --quick        # tiny sizes, as a smoke test

The prediction for K classes: a plain epoch is one forward pass an image, and the iFIM adds K - 1
backward passes, so the ratio is 1 + (K - 1) backward / forward; a handler without ``IFIMInferer``
runs the forward pass once more. Pictures take their time once an epoch, however many images it has.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial

import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from torch import Tensor, nn

from benchmarks.cases import Case, densenet, frozen, plain_forward, resnet_3d, tiny
from benchmarks.harness import finish_options, interleave, option_parser, report, spread
from monai_ifim import IFIMEpochLog, IFIMHandler, IFIMInferer

PLAIN = "plain `SupervisedEvaluator`"
SHARED = "`IFIMHandler(volumes=[])` with `IFIMInferer`"
ALONE = "`IFIMHandler(volumes=[])` alone"
VOLUMES = ("high", "orth", "sensitivity")


def epoch(network: nn.Module, images: Tensor, batch: int, kind: str) -> None:
    """One validation epoch over the images."""
    data = Dataset([{"image": image, "label": 0} for image in images.cpu()])
    evaluator = SupervisedEvaluator(
        device=images.device,
        val_data_loader=DataLoader(data, batch_size=batch),
        network=network,
        inferer=IFIMInferer() if kind == SHARED else None,
        val_handlers=[] if kind == PLAIN else [IFIMHandler(volumes=[])],
    )
    evaluator.run()


def passes(
    network: nn.Module, images: Tensor, batch: int
) -> tuple[dict[str, Callable[[], object]], Callable[[], None]]:
    """Forward and backward passes over the images without an engine.

    Returns:
        Functions to time, and one that frees the graphs.
    """
    batches = images.split(batch)
    graphs: list[tuple[Tensor, Tensor]] = []
    with frozen(network):
        for part in batches:
            x = part.detach().clone().requires_grad_()
            logits = network(x)
            graphs.append((x, logits[:, 1] - logits[:, 0]))

    def forward() -> None:
        for part in batches:
            plain_forward(network, part)

    def backward() -> None:
        for x, contrast in graphs:
            torch.autograd.grad(contrast.sum(), x, retain_graph=True)

    return {"forward": forward, "backward": backward}, graphs.clear


def measure(case: Case, batch: int, options: argparse.Namespace) -> tuple[list[list], list[str]]:
    """Rows and notes."""
    network, images = case.build(options.device)
    functions, free = passes(network, images, batch)
    pieces = interleave(functions, options)
    free()
    kinds = (PLAIN, SHARED, ALONE)
    times = interleave(
        {kind: partial(epoch, network, images, batch, kind) for kind in kinds}, options
    )
    pairs = zip(pieces.rounds["backward"], pieces.rounds["forward"], strict=True)
    cost, least, most = spread([b / f for b, f in pairs])
    added = (case.classes - 1) * cost
    predicted = {PLAIN: None, SHARED: 1 + added, ALONE: 2 + added}
    rows = [[k, times.spread(k), times.ratio(k, PLAIN), predicted[k]] for k in kinds]
    note = (
        f"{case.name.rpartition(',')[0]}, {len(images)} images in batches of {batch}. Predicted: "
        "1 + (K − 1) b, and one forward pass more without `IFIMInferer`; a backward pass to the "
        f"input takes b = {cost:.2f} ({least:.2f}–{most:.2f}) forward passes without a graph."
    )
    return rows, [note]


def logged(network: nn.Module, images: Tensor, volumes: Sequence[str], most: int) -> None:
    """One validation epoch that TensorBoard gets, one image a batch."""
    from torch.utils.tensorboard import SummaryWriter  # the other benchmark runs without

    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        handler = IFIMHandler(volumes=volumes)
        evaluator = SupervisedEvaluator(
            device=images.device,
            val_data_loader=[{"image": image[None], "label": 0} for image in images.cpu()],
            network=network,
            inferer=IFIMInferer(),
            val_handlers=[handler, IFIMEpochLog(handler, writer, most=most)],
        )
        evaluator.run()


def measure_pictures(options: argparse.Namespace) -> None:
    """What volumes and pictures add to an epoch with numbers alone, in seconds."""
    case = resnet_3d(16, 3, 2) if options.quick else resnet_3d(32, 3, 6)
    network, images = case.build(options.device)
    few, many = (1, 2) if options.quick else (1, 4)
    kinds = {"numbers": ((), 0), "and volumes": (VOLUMES, 0)}
    kinds |= {f"and {n} drawn": (VOLUMES, n) for n in (few, many)}
    times = interleave({k: partial(logged, network, images, *v) for k, v in kinds.items()}, options)
    seconds = times.rounds
    added = {
        k: spread([a - b for a, b in zip(seconds[k], seconds["numbers"], strict=True)])
        for k in kinds
    }
    last = added[f"and {many} drawn"][0]
    report(
        options,
        "epoch",
        title="Pictures of an epoch",
        claim=f"Volumes and {many} pictures for TensorBoard add {last:.2g} s to an epoch.",
        columns=["`IFIMEpochLog`", "epoch, s", "added, s"],
        rows=[[k, times.spread(k), added[k]] for k in kinds],
        notes=[f"{case.name}, {len(images)} images one by one; drawn once, at the epoch's end."],
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = option_parser(__doc__, seconds=20)
    parser.add_argument("--pictures", action="store_true", help="what IFIMEpochLog adds, alone")
    options = finish_options(parser, argv)
    if options.pictures:
        measure_pictures(options)
        return
    case, batch = (tiny(32, 3, 4), 2) if options.quick else (densenet(224, 6, 8), 4)
    rows, notes = measure(case, batch, options)
    report(
        options,
        "epoch",
        title="A validation epoch",
        claim=f"A validation epoch with the iFIM's numbers takes {rows[1][2][0]:.3g} times as long "
        f"as a plain one, {rows[1][3]:.3g} by its passes: one forward pass serves prediction and "
        "iFIM.",
        columns=["epoch", "time, s", "ratio", "predicted"],
        rows=rows,
        notes=notes,
    )


if __name__ == "__main__":
    main()
