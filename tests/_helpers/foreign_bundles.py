"""Small bundles as other people write them: their images, their weights, their runs."""

import csv
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from PIL import Image

BUNDLES = Path(__file__).parents[1] / "overlay" / "bundles"
RGB, GREY, SCAN = (13, 11, 3), (17, 12), (15, 12, 9)  # of the first image, rows first

# The seconds of a subprocess are mostly imports; a GPU would only add its own rounding.
_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """``python -m ...`` in a process of its own, its log in ``stdout``."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env=_ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )


# --- images ---------------------------------------------------------------------------------------


def oblique(number: int) -> np.ndarray:
    """Affine with unequal spacing, two rotations and a flip; no two scans share it."""
    a, b = 0.3 + 0.05 * number, -0.2
    about_z = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
    about_x = [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(about_z) @ np.array(about_x) @ np.diag([0.8, -1.3, 2.1])
    affine[:3, 3] = [-31.5 + number, 12.25, 7.75 - number]
    return affine


def write_scan(path: Path, number: int) -> None:
    random = np.random.default_rng(number)
    shape = tuple(size + number % 3 for size in SCAN)
    waves = sum(np.sin(0.4 * (axis + 1) * g) for axis, g in enumerate(np.indices(shape)))
    values = (100 + 40 * waves + 9 * random.standard_normal(shape)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, oblique(number)), path)


def write_picture(path: Path, number: int, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(number)
    sizes = [size + number % 3 for size in shape[:2]]
    values = random.integers(0, 256, (*sizes, *shape[2:]), dtype=np.uint8)
    Image.fromarray(values).save(path)


def rgb_images(folder: Path) -> None:
    for i in range(3):
        write_picture(folder / f"frame{i}.png", i, RGB)


def grey_images(folder: Path) -> None:
    for i in range(3):
        write_picture(folder / f"breast{i}.jpg", i, GREY)


def nuclei(folder: Path) -> None:
    (folder / "Images").mkdir()
    (folder / "Labels").mkdir()
    for i in range(3):
        write_picture(folder / "Images" / f"nucleus{i}.png", i, RGB)
        mask = np.zeros([size + i for size in RGB[:2]], dtype=np.uint8)
        mask[3:9, 4 : 8 + i] = 255
        Image.fromarray(mask).save(folder / "Labels" / f"nucleus{i}.png")


def patches(folder: Path) -> None:
    for i in range(3):
        write_picture(folder / f"patch{i}.png", i, (35, 33, 3))


def scans(folder: Path) -> None:
    for i in range(3):
        write_scan(folder / f"scan{i}.nii.gz", i)


# --- bundles --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """One kind of foreign bundle.

    Attributes:
        name: its folder in ``bundles/``.
        write_images: fills a data folder.
        likelihood: what its network predicts.
        run_id: which id of its configuration starts it.
        channels: of the network's input.
        outcomes: of the prediction, length of a row in its ``predictions.csv``.
    """

    name: str
    write_images: Callable[[Path], None]
    likelihood: str = "categorical"
    run_id: str = "run"
    channels: int = 1
    outcomes: int = 3

    @property
    def eigenvalues(self) -> int:
        return self.outcomes - (self.likelihood == "categorical")


SHAPES = [
    Shape("softmax_rgb", rgb_images, channels=3, outcomes=4),
    Shape("sigmoid_labels", grey_images, "bernoulli", "evaluating", outcomes=5),
    Shape("mask_channel", nuclei, channels=4),
    Shape("one_logit", patches, "bernoulli", "evaluating", channels=3, outcomes=1),
    Shape("oblique_3d", scans),
]
BY_NAME = {shape.name: shape for shape in SHAPES}


@dataclass(frozen=True)
class Runs:
    """A bundle run alone and under the overlay, on the same images."""

    shape: Shape
    bundle: Path
    images: Path
    plain: subprocess.CompletedProcess
    overlaid: subprocess.CompletedProcess
    plain_output: Path
    output: Path
    before: dict[str, str]

    @property
    def rows(self) -> list[dict[str, str]]:
        with (self.output / "ifim.csv").open(newline="") as file:
            return list(csv.DictReader(file))


def install(name: str, folder: Path) -> Path:
    """A copy of the bundle in ``folder``, with random weights and used batch statistics."""
    bundle = folder / name
    shutil.copytree(BUNDLES / name, bundle)
    shutil.copy(BUNDLES / "logging.conf", bundle / "configs")
    (bundle / "models").mkdir()
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        network = parse(bundle).get_parsed_content("network_def")
        for key, value in network.state_dict().items():
            if key.endswith("running_mean"):
                value.normal_(std=0.2)
            elif key.endswith("running_var"):
                value.uniform_(0.5, 1.5)
    torch.save(network.state_dict(), bundle / "models" / "model.pt")
    return bundle


def parse(bundle: Path, *overlays: Path, **values: Any) -> ConfigParser:
    """The bundle's own configuration, read in this process."""
    (own,) = (bundle / "configs").glob("[it]*.json")
    parser = ConfigParser()
    parser.read_config([str(own), *map(str, overlays)])
    parser.update({"bundle_root": str(bundle), **values})
    return parser


def network_of(parser: ConfigParser) -> torch.nn.Module:
    """The bundle's network with its weights, in train mode as bundles leave it."""
    network = parser.get_parsed_content("network_def")
    weights = Path(parser["bundle_root"]) / "models" / "model.pt"
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network


def run_bundle(
    bundle: Path,
    images: Path,
    output: Path,
    *options: str,
    overlay: Path | None = None,
    run_id: str = "run",
    kind: str = "infer",
) -> subprocess.CompletedProcess:
    """``python -m monai.bundle run`` from a folder that is not the bundle's."""
    (own,) = (bundle / "configs").glob("[it]*.json")
    files = [str(own)] if overlay is None else [str(own), str(overlay)]
    places = {"--bundle_root": bundle, "--dataset_dir": images, "--output_dir": output}
    return command(
        *["monai.bundle", "run", "--run_id", run_id, "--config_file", str(files)],
        *["--workflow_type", kind],
        *[text for name, place in places.items() for text in (name, str(place))],
        *options,
        cwd=images.parent,
    )


def digests(folder: Path) -> dict[str, str]:
    """Every file below a folder, and what it holds."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def stem(file: str | Path) -> str:
    return Path(file).name.split(".")[0]
