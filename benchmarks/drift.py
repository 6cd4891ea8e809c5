"""Do pooled eigenspaces tell a changed network or scanner from the noise of the images?

The networks of the four bundles are trained briefly, from new weights. Pooled eigenspaces of the
same validation images are compared: of three checkpoints of one training, and of the last one on
images from another preprocessing (blurred, brightened with a gamma, noisier). Angles are shown
beside two others: that of two halves of the images (no drift at all), and that to a network of
random weights (nothing left). Intervals: the images drawn anew, the same draw on both sides.

python -m benchmarks.drift --data DATA --cache FOLDER --output docs/trainings/drift.json
python -m benchmarks.drift --quick --only ifim_signal_2d --output /tmp/drift.json
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from monai_ifim.core.pooling import pooled_eigenspace
from monai_ifim.core.smoothing import along_axes, gaussian_matrices
from monai_ifim.data.atomic import complete_file
from monai_ifim.experiments.environment import environment
from monai_ifim.experiments.logits import logits_of
from monai_ifim.experiments.networks.trained_classifier import TrainedClassifier, batches
from monai_ifim.experiments.networks.training import estimate_statistics
from monai_ifim.experiments.steps import Steps, digest
from monai_ifim.experiments.tasks.blobs import signal_task
from monai_ifim.experiments.tasks.catalogue import load_task
from monai_ifim.experiments.tasks.fresh import FreshImages
from monai_ifim.experiments.tasks.labelled import Split, balanced
from monai_ifim.experiments.tasks.signal import SignalTask
from monai_ifim.experiments.trainings.metrics import bases, metrics_of
from monai_ifim.experiments.trainings.training import Amounts, Training

ROOT = Path(__file__).parents[1]
CHECKPOINTS = 3


@dataclass(frozen=True)
class Source:
    """The images of a bundle, and how long to train on them.

    Attributes:
        task: of ``load_task``, or of ``signal_task`` where it is made on the spot.
        size: of clinical images.
        images: images seen in the whole training.
        learning_rate: peak.
        pooled: validation images that are pooled.
    """

    task: str
    size: int | None
    images: int
    learning_rate: float
    pooled: int


SOURCES = {
    "ifim_signal_2d": Source("2d", None, 60_000, 3e-3, 300),
    "ifim_signal_3d": Source("3d", None, 48_000, 5e-3, 120),
    "ifim_mednist_2d": Source("mednist", 64, 14_400, 2e-3, 300),
    "ifim_hippocampus_3d": Source("hippocampus", None, 4_000, 2e-3, 87),
}


def preprocessings(images: Tensor) -> dict[str, Tensor]:
    """The same images from other preprocessings.

    Args:
        images: (n, C, *S).

    Returns:
        ``blurred`` (Gaussian of 0.7 voxels), ``gamma`` (an exponent of 0.8 between the least and
        the largest intensity of each image), ``noisier`` (0.2 of the standard deviation).
    """
    spatial = images.shape[2:]
    axes = tuple(range(1, images.ndim))
    least, most = images.amin(dim=axes, keepdim=True), images.amax(dim=axes, keepdim=True)
    scaled = ((images - least) / (most - least)).clamp(0, 1)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(7))
    return {
        "blurred": along_axes(images, gaussian_matrices(spatial, [0.7] * len(spatial))),
        "gamma": least + (most - least) * scaled**0.8,
        "noisier": images + 0.2 * images.std() * noise,
    }


def train(
    network: nn.Module, batch_of: Iterator[tuple[Tensor, Tensor]], steps: int, rate: float
) -> list[dict[str, Tensor]]:
    """Weights at ``CHECKPOINTS`` equal distances, batch statistics estimated anew at each.

    Args:
        network: with new weights; changed.
        batch_of: images and labels, without end.
        steps: of the optimiser, in all.
        rate: peak of one cycle of the learning rate.

    Returns:
        State dictionaries, the last one of the whole training.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 1)
    found: list[dict[str, Tensor]] = []
    recent: list[Tensor] = []
    marks = {math.ceil(steps * (i + 1) / CHECKPOINTS) for i in range(CHECKPOINTS)}
    for step in range(1, steps + 1):
        images, labels = next(batch_of)
        recent = [*recent[-15:], images]
        network.train()
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        schedule.step()
        if step in marks:
            kept = copy.deepcopy(network)
            estimate_statistics(kept, recent)
            found.append(kept.state_dict())
    return found


def passes(split: Split, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of a training set, over and over again, in random order."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for chosen in torch.randperm(len(split), generator=generator).split(size):
            if len(chosen) == size:
                yield split.images[chosen], split.labels[chosen]


def images_of(
    source: Source, data: Path | None, quick: bool
) -> tuple[Split, Split, SignalTask | None]:
    """Images to train on and to validate on, and what they are drawn from."""
    pooled = 24 if quick else source.pooled
    if source.task in ("2d", "3d"):
        signal = signal_task(source.task)
        drawn = [
            FreshImages(signal, 50, n // 50 + 1, seed) for n, seed in ((500, 98), (pooled, 99))
        ]
        train_set, test = (Split(*map(torch.cat, zip(*each, strict=True))) for each in drawn)
        return train_set, test, signal
    task = load_task(source.task, train=3600, test=600, size=source.size, data=data)
    return task.train, task.test, None


def checkpoints(
    name: str, source: Source, steps: Steps, data: Path | None, quick: bool
) -> list[Training]:
    """A short training of a bundle's network, its checkpoints as they are compared."""
    train_set, test, signal = images_of(source, data, quick)
    config = ConfigParser()
    config.read_config(ROOT / "bundles" / name / "configs" / "train.json")

    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        untrained: nn.Module = config.get_parsed_content("network_def")

    def build() -> nn.Module:
        return copy.deepcopy(untrained)  # the parser gives the same object every time

    size = 16 if source.images < 10_000 else 64
    count = 4 if quick else source.images // size

    def compute() -> list[dict[str, Tensor]]:
        batch_of = (
            passes(train_set, size, 0)
            if signal is None
            else iter(FreshImages(signal, size, count, 0))
        )
        return train(build(), batch_of, count, source.learning_rate)

    key = {
        "drift": 1,
        "bundle": name,
        "count": count,
        "size": size,
        "rate": source.learning_rate,
        "train": train_set.digest(),
    }
    weights = steps.run(f"drift train {name}", key, compute)
    sample = balanced(test, 24 if quick else source.pooled)
    found = []
    for i, state in enumerate(weights):
        network = build()
        network.load_state_dict(state)
        network.eval()
        classifier = TrainedClassifier(
            f"{name} checkpoint {i + 1}", network, "categorical", digest(*state.values())
        )
        amounts = Amounts(len(sample), 0, 4 if quick else 100)
        classes = int(logits_of(network, sample.images[:2]).shape[1])
        found.append(Training(classifier, sample.images, classes, amounts, steps))
    return found


def measured(
    name: str, source: Source, steps: Steps, data: Path | None, quick: bool
) -> dict[str, Any]:
    """All angles of one bundle's network."""
    train_set, test, _ = images_of(source, data, quick)
    trained = checkpoints(name, source, steps, data, quick)
    last = trained[-1]
    labels = balanced(test, len(last.images)).labels
    moved = {
        kind: Training(last.classifier, images, last.classes, last.amounts, steps)
        for kind, images in preprocessings(last.images).items()
    }
    space = pooled_eigenspace(
        last.classifier.network, batches(last.images), control="random_weights"
    )
    assert space.control is not None
    control = space.control.eigenvectors[None, : last.rank]
    result: dict[str, Any] = {
        "task": source.task,
        "images_seen": source.images,
        "pooled_images": len(last.images),
        "accuracy": [_accuracy(each.classifier.network, each.images, labels) for each in trained],
        "accuracy_moved": {
            kind: _accuracy(last.classifier.network, each.images, labels)
            for kind, each in moved.items()
        },
        "stable_rank": space.stable_rank,
        "angles": {},
    }
    metrics = {key: seen for key, seen in metrics_of(train_set).items() if key != "within_class"}
    for metric, seen in metrics.items():
        spaces = [bases(each.pooled["unit_trace"], seen) for each in trained]
        for rank in sorted({1, last.rank}):
            pairs = {
                "checkpoint 1 to 2": (spaces[0], spaces[1]),
                "checkpoint 2 to 3": (spaces[1], spaces[2]),
                **{
                    kind: (spaces[-1], bases(each.pooled["unit_trace"], seen))
                    for kind, each in moved.items()
                },
                "other half of the images": _halves(last, seen),
                "random weights": (spaces[-1], bases(control, seen)),
            }
            rows = {kind: _interval(*pair, rank) for kind, pair in pairs.items()}
            result["angles"].setdefault(metric, {})[str(rank)] = rows
    return result


def _halves(training: Training, seen: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Pooled spaces of disjoint random halves of the images, as many as there are draws."""
    generator = torch.Generator().manual_seed(training.amounts.seed)
    count = len(training.images)
    first = torch.stack(
        [
            torch.randperm(count, generator=generator) < count // 2
            for _ in range(training.amounts.draws + 1)
        ]
    )
    columns = training.columns
    sides = (columns.pooled("unit_trace", training.rank, half.double()) for half in (first, ~first))
    one, two = (bases(side, seen) for side in sides)
    return one, two


def _interval(first: Tensor, second: Tensor, rank: int) -> dict[str, float]:
    """Largest principal angle of the leading directions in degrees, and its percentiles."""
    overlap = first[:, :, :rank].transpose(1, 2) @ second[:, :, :rank]
    angles = torch.linalg.svdvals(overlap.double())[:, -1].clamp(0, 1).arccos().rad2deg()
    # Draws hold fewer different images and so give larger angles: only their spread is used.
    draws = angles[1:] - angles[1:].mean() + angles[0]
    low, high = torch.quantile(draws, torch.tensor([0.025, 0.975]).double()).clamp(0, 90).tolist()
    return {"value": float(angles[0]), "low": low, "high": high}


def _accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float((logits_of(network, images).argmax(dim=1) == labels).double().mean())


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write; the file grows network by network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="clinical data sets, as in docs/experiments.md")
    parser.add_argument("--cache", type=Path, help="of finished steps")
    parser.add_argument("--only", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--quick", action="store_true", help="smoke test at a tiny size")
    options = parser.parse_args(argv)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as made:
        steps = Steps(options.cache or Path(made), say=print)
        for name in options.only:
            found[name] = measured(name, SOURCES[name], steps, options.data, options.quick)
            text = json.dumps(
                {"environment": environment(), "quick": options.quick, "networks": found}, indent=1
            )
            options.output.parent.mkdir(parents=True, exist_ok=True)
            with complete_file(options.output) as partial:
                partial.write_text(text + "\n")
            for metric, ranks in found[name]["angles"].items():
                for rank, rows in ranks.items():
                    for kind, angle in rows.items():
                        ends = f"{angle['value']:.1f} [{angle['low']:.1f}, {angle['high']:.1f}]"
                        print(f"{name} {metric} {rank}: {kind} {ends}")


if __name__ == "__main__":
    main()
