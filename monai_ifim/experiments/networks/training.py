"""One recipe that trains every network of the experiments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Annotated, Any

import torch
from ignite.handlers import ProgressBar
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from monai_ifim.experiments.networks.architectures import build_network
from monai_ifim.experiments.networks.augmented import AugmentedImages
from monai_ifim.experiments.tasks.fresh import FreshImages
from monai_ifim.experiments.tasks.labelled import Task

Count = Annotated[int, Field(strict=True, ge=0, description="a whole number >= 0")]
Rate = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False, description="a number >= 0")]
Switch = Annotated[bool, Field(strict=True, description="true or false")]
Strength = Annotated[
    float, Field(strict=True, ge=1, allow_inf_nan=False, description="a number >= 1")
]
Share = Annotated[float, Field(strict=True, gt=0, lt=1, description="a share in (0, 1)")]


class Recipe(BaseModel, frozen=True, extra="forbid"):
    """AdamW, one cycle of the learning rate, cross-entropy.

    Attributes:
        images: images seen in all; a smaller training set is passed over several times.
        batch_size: images a step.
        learning_rate: its peak.
        warm_up: share of the steps in which the learning rate rises to its peak.
        fresh: draw every image anew instead of passing over a training set; for controlled tasks,
            whose images have no end.
        strength: what the signals of fresh images are multiplied by at first, down to 1 by nine
            tenths of the training: networks that would learn nothing in a long time start with easy
            images.
        augmented: turn (up to 10 degrees), shift (up to 6 %) and scale (up to 10 %) each image anew
            whenever it is seen; for clinical tasks, whose images are few.
    """

    images: Count = 10000
    batch_size: Count = 64
    learning_rate: Rate = 1e-3
    warm_up: Share = 0.3
    fresh: Switch = False
    strength: Strength = 1.0
    augmented: Switch = False


@dataclass(frozen=True)
class Variant:
    """What is trained, apart from the recipe.

    Attributes:
        architecture: in ``ARCHITECTURES``.
        width: channels or tokens where they can be chosen; the usual number by default.
        seed: of the weights and of the order of the images.
        shuffled: give the images each other's labels, so that there is nothing to learn.
        limit: train on the first images only.
        max_pool: keep the max-pooling after the first convolution, as in ``build_network``.
    """

    architecture: str
    width: int | None = None
    seed: int = 0
    shuffled: bool = False
    limit: int | None = None
    max_pool: bool = True

    def build(self, task: Task) -> nn.Module:
        """The untrained network, the same at every call; the global random state is kept.

        Args:
            task: gives size and classes.

        Returns:
            The network in eval mode.
        """
        with torch.random.fork_rng([]):
            torch.manual_seed(self.seed)
            return build_network(
                self.architecture,
                task.shape,
                len(task.classes),
                self.width,
                max_pool=self.max_pool,
            ).eval()


def train(task: Task, variant: Variant, recipe: Recipe) -> dict[str, Tensor]:
    """Train a network.

    Args:
        task: images.
        variant: what to train.
        recipe: how.

    Returns:
        Its state dictionary. The global random state is as before.

    Raises:
        ValueError: a training that diverged.
    """
    network = variant.build(task)
    if len(task.shape) == 3:
        # A third less time for networks of many thin layers on the CPU.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loader, epochs = _batches(task, variant, recipe)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.learning_rate,
        total_steps=epochs * len(loader) + 1,
        pct_start=recipe.warm_up,
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(variant.seed)  # dropout
        trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=epochs,
            train_data_loader=loader,
            network=network,
            optimizer=optimizer,
            loss_function=nn.CrossEntropyLoss(),
            train_handlers=[LrScheduleHandler(schedule, print_lr=False, epoch_level=False)],
            decollate=False,
        )
        trainer.logger.setLevel("WARNING")
        ProgressBar(desc=f"train {variant.architecture}", disable=None).attach(trainer)
        trainer.run()
        estimate_statistics(network, [images for images, _ in islice(_settled(loader), 32)])
    weights = {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }
    if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        raise ValueError(
            f"expected finite weights after training {variant.architecture} on {task.name}, got "
            "NaN or infinity; lower the learning rate"
        )
    return weights


def _batches(task: Task, variant: Variant, recipe: Recipe) -> tuple[DataLoader[Any], int]:
    """Batches of images and labels, and how often to pass over them."""
    if recipe.fresh and variant.limit is None:
        steps = max(1, math.ceil(recipe.images / recipe.batch_size))
        fresh = FreshImages(
            task.known_signal,
            recipe.batch_size,
            steps,
            variant.seed,
            strength=recipe.strength,
            shuffled=variant.shuffled,
        )
        return DataLoader(fresh, batch_size=None), 1
    generator = torch.Generator().manual_seed(variant.seed)
    plain = training_set(task, variant, generator)
    data = AugmentedImages(plain, task.shape, variant.seed) if recipe.augmented else plain
    batch_size = min(recipe.batch_size, len(data))
    loader = DataLoader(data, batch_size, shuffle=True, drop_last=True, generator=generator)
    return loader, max(1, math.ceil(recipe.images / (len(loader) * batch_size)))


def _settled(loader: DataLoader[Any]) -> DataLoader[Any]:
    """The batches, as easy as they are at the end of the training."""
    images = loader.dataset
    if isinstance(images, FreshImages):
        return DataLoader(images.settled(), batch_size=None)
    return loader


def estimate_statistics(network: nn.Module, batches: Sequence[Tensor]) -> None:
    """Batch statistics of the trained weights, as a mean over batches.

    The running mean of a short training lags behind: that of an EfficientNet, with its momentum
    of 0.01, left a trained network at chance in eval mode.

    Args:
        network: its batch-norm layers are changed.
        batches: images (B, C, *S).
    """
    layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    network.eval()  # dropout off
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean
        layer.train()
    with torch.no_grad():
        for images in batches:
            network(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.eval()


def training_set(task: Task, variant: Variant, generator: torch.Generator) -> TensorDataset:
    """Images and labels to train on, all of them or the first ones, labels perhaps shuffled.

    Args:
        task: its images.
        variant: which of them.
        generator: of the shuffled labels.

    Returns:
        Pairs (C, *S) and ().
    """
    images, labels = task.train.images[: variant.limit], task.train.labels[: variant.limit]
    if variant.shuffled:
        labels = labels[torch.randperm(len(labels), generator=generator)]
    return TensorDataset(images, labels)


def training_key(task: Task, variant: Variant, recipe: Recipe) -> dict[str, Any]:
    """All that the weights depend on, for a key in ``Steps``."""
    fresh = recipe.fresh and variant.limit is None
    described = asdict(variant)
    if variant.max_pool:
        del described["max_pool"]  # a variant that gains a field trains nothing anew
    return {
        "weights": 3,  # raise when the code, or a default of the recipe, changes what it gives
        "task": task.known_signal.digest() if fresh else task.train.digest(),
        "variant": described,
        # Without defaults: a recipe that gains a field trains nothing anew. A training set has
        # signals that stay as they are.
        "recipe": recipe.model_dump(exclude_defaults=True, exclude=None if fresh else {"strength"}),
        "torch": str(torch.__version__),
    }
