"""The pictures of two guides, classes.md and several_inputs.md: run this file.

Both networks are ideal observers of known signals in a Gaussian background, whose eigenspaces are
known: combinations of the templates.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from pictures import save
from torch import Tensor, nn

import monai_ifim as mi
from monai_ifim.experiments import signal_task

TASK = signal_task("2d_four")


class Ideal(nn.Module):
    """The ideal observer: affine in the image."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 4) of images (B, 1, *S)."""
        return TASK.ideal_logits(images)


def classes() -> None:
    """The leading eigenvector of all classes, of a pair, and of merged classes."""
    images = TASK.sample([0, 2, 2, 2], torch.Generator().manual_seed(3)).double()
    asked = {
        "all four classes": {},
        "classes=[1, 2]": {"classes": [1, 2]},
        "groups=[[0], [1, 2, 3]]": {"groups": [[0], [1, 2, 3]]},
    }
    spaces = {name: mi.eigenspace(Ideal(), images, **how) for name, how in asked.items()}
    one = int(spaces["all four classes"].trace.argmax())
    figure, axes = plt.subplots(1, 4, figsize=(11, 3.1), layout="constrained")
    axes[0].imshow(images[one, 0].T, cmap="gray", origin="lower")
    axes[0].set_title("image", fontsize=10)
    for axis, (name, space) in zip(axes[1:], spaces.items(), strict=True):
        signed(axis, space.eigenvectors[one, 0, 0])
        probabilities = space.likelihood.probabilities(space.logits)[one].tolist()
        told = ", ".join(f"{p:.2f}" for p in probabilities)
        axis.set_title(f"{name}\n{told}; rank {int(space.rank[one])}", fontsize=10)
        print(f"{name}: trace {float(space.trace[one]):.3g}, probabilities {told}")
    axes[0].set_axis_off()
    save(figure, "classes")


class Fused(nn.Module):
    """Two classes, with a signal in one place of the MR image and in another of the CT."""

    def forward(self, mr: Tensor, ct: Tensor) -> Tensor:
        """Logits (B, 2) of two images (B, 1, *S)."""
        first = TASK.ideal_logits(mr)[:, 1]
        second = TASK.ideal_logits(ct / 300)[:, 2] / 3
        return torch.stack([torch.zeros_like(first), first + second], dim=1)


def several_inputs() -> None:
    """Joint F of an MR and a CT: the components of each, and their shares."""
    mr, ct = (TASK.sample([k], torch.Generator().manual_seed(k)).double() for k in (1, 2))
    inputs = {"mr": mr, "ct": 300 * ct}
    scale = {"mr": 1.0, "ct": 300.0}
    joint = mi.SeveralInputs(Fused(), inputs, wrt=["mr", "ct"], scale=scale)
    space = mi.eigenspace(joint.network, joint.images)
    high, _ = joint.split(space)
    shares = joint.shares(space)
    figure, axes = plt.subplots(1, 5, figsize=(13, 2.9), layout="constrained")
    for pair, name in zip((axes[:2], axes[2:4]), inputs, strict=True):
        pair[0].imshow(inputs[name][0, 0].T, cmap="gray", origin="lower")
        pair[0].set_title(f"{name.upper()}", fontsize=10)
        pair[0].set_axis_off()
        signed(pair[1], high[name][0, 0])
        pair[1].set_title(f"high component of {name.upper()}", fontsize=10)
    values = [float(shares[name][0]) for name in inputs]
    axes[4].barh(["MR", "CT"], values, color="#1f77b4")
    axes[4].set_xlim(0, 1)
    axes[4].invert_yaxis()
    axes[4].set_title("shares of the trace", fontsize=10)
    save(figure, "several_inputs")
    print(f"shares {values}")


def signed(axis: Axes, values: Tensor) -> None:
    """A map with 0 in white."""
    limit = float(values.abs().max())
    axis.imshow(values.T, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower")
    axis.set_axis_off()


if __name__ == "__main__":
    classes()
    several_inputs()
