"""How well a trained network agrees with the ideal observer of a signal task."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from monai_ifim.core import Categorical, eigenspace
from monai_ifim.core.angles import principal_angles
from monai_ifim.experiments.logits import logits_of
from monai_ifim.experiments.tasks.signal import SignalTask


@dataclass(frozen=True)
class Agreement:
    """Figures of one network on fresh images.

    Attributes:
        accuracy: share of correct decisions of the network.
        ideal_accuracy: the same of the ideal observer, on the very same images.
        decisions: number of images behind both.
        cosines: smallest principal cosine between the network's eigenspace and the span of the
            ideal templates, one for each of a smaller number of images, in float64.
    """

    accuracy: float
    ideal_accuracy: float
    decisions: int
    cosines: Tensor

    def __str__(self) -> str:
        """Two lines for people."""
        low, middle = torch.quantile(self.cosines, torch.tensor([0.1, 0.5]).double()).tolist()
        return (
            f"accuracy {self.accuracy:.3f}, ideal observer {self.ideal_accuracy:.3f} "
            f"({self.decisions} images)\n"
            f"eigenspace against the ideal template: median cosine {middle:.3f}, "
            f"10th percentile {low:.3f} ({len(self.cosines)} images)"
        )


def agreement(
    network: nn.Module,
    task: SignalTask,
    *,
    decisions: int = 4000,
    eigenspaces: int = 100,
    batch_size: int = 100,
    seed: int = 1,
) -> Agreement:
    """Accuracy against the ideal observer's, and the angle to the known template.

    Args:
        network: trained on the task, (B, 1, *S) to (B, K).
        task: the task.
        decisions: fresh images for the accuracies.
        eigenspaces: how many of them to compute an eigenspace for.
        batch_size: images at a time.
        seed: of the images; the global random state is not touched.

    Returns:
        The figures.

    Raises:
        ValueError: a network with a dense prediction.
    """
    generator = torch.Generator().manual_seed(seed)
    correct = ideal = 0
    cosines: list[Tensor] = []
    templates = task.templates[None, :, None]
    done = 0
    while done < decisions:
        count = min(batch_size, decisions - done)
        labels = torch.randint(task.classes, (count,), generator=generator)
        images = task.sample(labels, generator)
        decided = Categorical().predicted(logits_of(network, images, batch_size))
        correct += int((decided == labels).sum())
        ideal += int((task.ideal_logits(images).argmax(dim=1) == labels).sum())
        if done < eigenspaces:
            some = images[: eigenspaces - done]
            space = eigenspace(network, some)
            cosines.append(principal_angles(space.eigenvectors, templates)[:, -1].cos())
        done += count
    return Agreement(correct / decisions, ideal / decisions, decisions, torch.cat(cosines))
