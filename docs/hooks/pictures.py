"""The pictures of Start and "How to read the components": `python docs/hooks/pictures.py`.

All images are drawn from the task of the bundle ``ifim_signal_2d``, and all networks have its
architecture; two of them are trained here, for a minute each. The numbers that the page quotes are
printed. ``report.png`` is what the commands of Start lead to, photographed with playwright and
Chromium after `make assets`; without them it stays as it is.
"""

from __future__ import annotations

import io
import json
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
from matplotlib.figure import Figure
from monai.networks.nets import Classifier
from PIL import Image
from torch import Tensor, nn

import monai_ifim as mi
from monai_ifim.experiments import signal_task

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "ifim_signal_2d"
PICTURES = ROOT / "docs" / "pictures"
TASK = signal_task("2d")
NAMES = ("no signal", "signal")
STEPS, BATCH = 800, 64


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (count, 1, 64, 64) of the task and their labels, half of each class."""
    labels = torch.arange(count) % 2
    return TASK.sample(labels, torch.Generator().manual_seed(seed)), labels


def make_network(seed: int) -> nn.Module:
    """The bundle's architecture with random weights."""
    settings = json.loads((BUNDLE / "configs" / "inference.json").read_text())["network_def"]
    settings.pop("_target_")
    torch.manual_seed(seed)
    return Classifier(**settings)


def trained(seed: int) -> nn.Module:
    """The same, trained briefly."""
    network = make_network(seed)
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, STEPS)
    for step in range(STEPS):
        images, labels = draw(BATCH, 1000 * STEPS * (seed + 1) + step)
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def save(figure: Figure, name: str) -> None:
    """A PNG in full colour: a palette would leave a colour bar a few steps."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    write(buffer, name)


def write(buffer: io.BytesIO, name: str) -> None:
    """Without transparency, which would cost a quarter of the bytes."""
    Image.open(buffer).convert("RGB").save(PICTURES / f"{name}.png", optimize=True)
    print(f"{name}.png: {(PICTURES / f'{name}.png').stat().st_size / 1000:.0f} kB")


def report_page() -> None:
    """The page of a case, as the commands of docs/index.md make it."""
    assets = ROOT / "monai_ifim" / "report" / "assets" / "niivue.js"
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not assets.is_file() or program is None:
        print("report.png stays: it takes `make assets`, playwright and Chromium")
        return
    from playwright.sync_api import sync_playwright

    commands = re.findall(
        r"^```bash\n(.*?)^```", (ROOT / "docs" / "index.md").read_text(), re.M | re.S
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "bundles").symlink_to(ROOT / "bundles")
        for line in commands[0].replace("\\\n", " ").splitlines():
            program_, *arguments = shlex.split(line)
            subprocess.run(
                [sys.executable, "-m", program_.replace("-", "_"), *arguments],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                check=True,
            )
        (page_file, *_) = sorted(Path(folder, "results", "report", "cases").glob("*.html"))
        with sync_playwright() as play:
            flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
            browser = play.chromium.launch(executable_path=program, args=flags)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(page_file.as_uri())
            page.wait_for_selector("html[data-ready=yes]")
            page.wait_for_timeout(2000)  # WebGL without a screen
            # What follows are dates and folders.
            end = page.get_by_role("heading", name="Provenance").bounding_box()
            clip = {"x": 0, "y": 0, "width": 1280, "height": end["y"] - 12}
            taken = page.screenshot(full_page=True, clip=clip)
            browser.close()
    write(io.BytesIO(taken), "report")


def leading(network: nn.Module, image: Tensor) -> Tensor:
    """The leading eigenvector (64, 64) at one image (1, 1, 64, 64)."""
    return mi.eigenspace(network, image).eigenvectors[0, 0, 0].double()


def one_network(bundle: nn.Module, image: Tensor) -> None:
    """Leading eigenvectors of several networks at one image, beside the ideal template."""
    template = TASK.templates[0] / TASK.templates[0].norm()
    first, second = trained(0), trained(1)
    vectors = {
        "ideal observer": template,
        "bundle, 6,000 steps": leading(bundle, image),
        f"seed 0, {STEPS} steps": leading(first, image),
        f"seed 1, {STEPS} steps": leading(second, image),
        "random weights": leading(make_network(2).eval(), image),
    }
    figure, axes = plt.subplots(1, 5, figsize=(10, 2.5), layout="constrained")
    for axis, (name, vector) in zip(axes, vectors.items(), strict=True):
        cosine = float((vector * template).sum())
        vector = vector if cosine >= 0 else -vector
        limit = float(vector.abs().quantile(0.995))
        axis.imshow(vector.T, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower")
        axis.set_title(f"{name}\ncosine {abs(cosine):.2f}", fontsize=10)
        axis.set_axis_off()
        print(f"{name}: cosine with the template {abs(cosine):.3f}")
    save(figure, "one_network")
    images, labels = draw(400, 5)
    for network, name in ((bundle, "bundle"), (first, "seed 0"), (second, "seed 1")):
        accuracy = (network(images).argmax(dim=1) == labels).double().mean()
        print(f"{name}: accuracy {accuracy:.3f} on 400 images")
    few = images[:100]
    cosines = [mi.eigenspace(n, few).eigenvectors[:, 0].flatten(1) for n in (first, second)]
    angles = (cosines[0] * cosines[1]).sum(dim=1).abs().clamp(max=1).acos().rad2deg()
    print(f"seed 0 and seed 1: {angles.median():.1f} degrees, median of 100 images")


def pooled(bundle: nn.Module) -> None:
    """The eigenspace that 400 images share, beside that of the same with random weights."""
    images, _ = draw(400, 7)
    space = mi.pooled_eigenspace(bundle, images.split(50), control="random_weights")
    save(mi.show_pooled(space), "pooled")
    assert space.control is not None
    template = TASK.templates
    for name, each in (("pooled", space), ("random weights", space.control)):
        for blur in (None, 2.0):
            angle = each.angles(template[:1, None].to(images), blur, rank=1).rad2deg()
            print(f"{name}, blur {blur}: {float(angle):.1f} degrees from the ideal template")


def main() -> None:
    """Draw and write them all."""
    bundle = make_network(0)
    bundle.load_state_dict(torch.load(BUNDLE / "models" / "model.pt", weights_only=True))
    bundle.eval()
    images, _ = draw(64, 7)
    space = mi.eigenspace(bundle, images)
    order = space.trace.argsort(descending=True)
    save(
        mi.show(images[order[:1]], mi.eigenspace(bundle, images[order[:1]]), class_names=NAMES),
        "case",
    )
    ends = images[order[[0, -1]]]
    print("traces:", mi.eigenspace(bundle, ends).trace.tolist())
    save(mi.show(ends, mi.eigenspace(bundle, ends), class_names=NAMES), "same_colours")
    one_network(bundle, images[order[:1]])
    pooled(bundle)
    report_page()


if __name__ == "__main__":
    main()
