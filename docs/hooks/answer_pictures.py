"""The picture of docs/guides/another_answer.md: run this file."""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from pictures import BUNDLE, NAMES, draw, make_network, save

import monai_ifim as mi


def main() -> None:
    """Two images of the bundle's task, the found changes, and the images just beyond."""
    network = make_network(0)
    network.load_state_dict(torch.load(BUNDLE / "models" / "model.pt", weights_only=True))
    network.eval()
    images, labels = draw(8, 7)
    right = network(images).argmax(dim=1) == labels
    chosen = images[right & (labels == 1)][:1], images[right & (labels == 0)][:1]
    images = torch.cat(chosen)
    found = mi.verified_flip(network, images)
    predicted = network(images).argmax(dim=1).tolist()
    figure, axes = plt.subplots(2, 3, figsize=(7.2, 4.9), layout="constrained")
    for row, image, beyond, was, to, distance, first in zip(
        axes, images, found.images, predicted, found.index.tolist(), found.distance.tolist(),
        found.first_order.tolist(), strict=True,
    ):  # fmt: skip
        low, high = float(image.min()), float(image.max())
        change = (beyond - image)[0]
        limit = float(change.abs().max())
        grey = {"cmap": "gray", "vmin": low, "vmax": high, "origin": "lower"}
        row[0].imshow(image[0].T, **grey)
        row[0].set_title(f"{NAMES[was]}", fontsize=10)
        shown = row[1].imshow(change.T, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower")
        figure.colorbar(shown, ax=row[1], shrink=0.85)
        row[1].set_title(f"change, L2 norm {distance:.2f}", fontsize=10)
        row[2].imshow(beyond[0].T, **grey)
        row[2].set_title(f"{NAMES[to]}, just beyond", fontsize=10)
        norm = float(image.norm())
        print(f"first order {first:.3f}, verified {distance:.3f}, image {norm:.1f}")
        for axis in row:
            axis.set_axis_off()
    save(figure, "another_answer")


if __name__ == "__main__":
    main()
