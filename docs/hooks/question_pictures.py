"""The pictures of two guides, nuisances.md and regions.md: run this file.

``nuisances.png`` is a part of the report that the page's commands lead to, photographed with
playwright and Chromium; without them it stays as it is.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from pictures import BUNDLE, ROOT, draw, make_network, save, write
from torch import Tensor

import monai_ifim as mi


def nuisances() -> None:
    """What one prediction tolerates, as the report shows it."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if program is None:
        print("nuisances.png stays: it takes playwright and Chromium")
        return
    from playwright.sync_api import sync_playwright

    page_of = ROOT / "docs" / "guides" / "nuisances.md"
    (commands, *_) = re.findall(r"^```bash\n(.*?)^```", page_of.read_text("utf-8"), re.M | re.S)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "bundles").symlink_to(ROOT / "bundles")
        for line in commands.replace("\\\n", " ").splitlines():
            name, *arguments = shlex.split(line)
            command = [sys.executable, "-m", name.replace("-", "_"), *arguments]
            path = os.environ | {"PYTHONPATH": str(ROOT)}
            subprocess.run(command, cwd=folder, env=path, check=True)
        pages = sorted(Path(folder, "results", "report", "cases").glob("*.html"))
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1100, "height": 900})
            page.goto(pages[1].as_uri())
            top = page.get_by_role("heading", name="What the prediction tolerates").bounding_box()
            end = page.get_by_role("heading", name="Provenance").bounding_box()
            height = end["y"] - top["y"] - 8
            clip = {"x": 0, "y": top["y"] - 8, "width": 1100, "height": height}
            taken = page.screenshot(full_page=True, clip=clip)
            browser.close()
    write(io.BytesIO(taken), "nuisances")


def regions() -> None:
    """Shares of two made-up organs, and the component of one of them."""
    network = make_network(0)
    network.load_state_dict(torch.load(BUNDLE / "models" / "model.pt", weights_only=True))
    network.eval()
    images, _ = draw(64, 7)
    image = images[mi.eigenspace(network, images).trace.argmax()][None]
    organs = made_up_organs()
    masks, labels = mi.label_masks(organs)
    space = mi.eigenspace(network, image)
    shares = dict(zip(labels, space.shares(masks)[0].tolist(), strict=True))
    volumes = {label: float((organs == label).double().mean()) for label in labels}
    inside = mi.eigenspace(network, image, perturbation=mi.Mask(organs == 1))
    figure, axes = plt.subplots(1, 4, figsize=(11, 2.9), layout="constrained")
    for axis, values, title in (
        (axes[0], image[0, 0], "image, organs"),
        (axes[1], space.sensitivity()[0, 0].sqrt(), "sensitivity √ diag F"),
        (axes[3], inside.split(image)[0][0, 0], "component of organ 1"),
    ):
        signed = axis is axes[3]
        limit = float(values.abs().quantile(0.998))
        low = -limit if signed else float(values.min())
        colours = "RdBu_r" if signed else "gray"
        axis.imshow(values.T, cmap=colours, vmin=low, vmax=limit, origin="lower")
        axis.contour(organs[0, 0].T, levels=[0.5, 1.5], colors=["#e07b00"], linewidths=1)
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    places = torch.arange(len(labels))
    axes[2].barh(places - 0.2, [shares[n] for n in labels], 0.4, label="of the trace")
    axes[2].barh(places + 0.2, [volumes[n] for n in labels], 0.4, label="of the image")
    axes[2].set_yticks(places, ["other", "organ 1", "organ 2"])
    axes[2].invert_yaxis()
    axes[2].set_title("shares", fontsize=10)
    axes[2].legend(fontsize=8)
    save(figure, "regions")
    print(f"shares {shares}, of the image {volumes}")


def made_up_organs() -> Tensor:
    """A disc over the signal and an ellipse beside it, (1, 1, 64, 64)."""
    x, y = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    organs = torch.zeros(64, 64, dtype=torch.int64)
    organs[(x - 29) ** 2 + (y - 37) ** 2 < 10**2] = 1
    organs[((x - 48) / 8) ** 2 + ((y - 20) / 12) ** 2 < 1] = 2
    return organs[None, None]


if __name__ == "__main__":
    regions()
    nuisances()
