"""What every entry point returns for fixed networks and images, saved as tensors.

``same_numbers`` runs a copy of this file against two versions of the package. It therefore imports
nothing else from this repository, and of the package public names alone.

python answers.py FILE [NAME ...]    # only the cases whose name contains a NAME
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from monai.networks.nets import DenseNet121, ResNet, UNet
from torch import Tensor, nn

import monai_ifim as mi

Answer = dict[str, Any]  # tensors, and texts

VOLUMES = ("high", "orth", "sensitivity")
CLASSES = 4
# Pairwise distinct sizes, so that no transpose hides.
FLAT, DEEP = (1, 13, 11), (1, 13, 11, 9)
AFFINE = np.array([[0.9, -0.2, 0, 4], [0.3, 1.1, 0, -7], [0, 0.1, 1.6, 9], [0, 0, 0, 1]])


@dataclass(frozen=True)
class Case:
    """One network, one batch, one choice of options.

    Attributes:
        make: builds the network.
        shape: of one image, (C, *S).
        batch: how many images.
        options: keywords of every entry point.
        dtype: of network and images.
        train: leave the network in train mode, with frozen and moving parts.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int = 4
    options: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    train: bool = False


def smooth(dims: int, classes: int = CLASSES, gain: float = 1.0, norm: bool = False) -> nn.Module:
    """Two convolutions and two linear layers.

    Args:
        dims: 2 or 3 spatial axes.
        classes: logits.
        gain: factor of the last layer's weights; 60 makes predictions that are nearly certain.
        norm: with batch norm and dropout.

    Returns:
        The network.
    """
    convolution, pool, batch_norm = (
        (nn.Conv2d, nn.AdaptiveAvgPool2d, nn.BatchNorm2d)
        if dims == 2
        else (nn.Conv3d, nn.AdaptiveAvgPool3d, nn.BatchNorm3d)
    )
    network = nn.Sequential(
        convolution(1, 4, 3),
        batch_norm(4) if norm else nn.Tanh(),
        convolution(4, 5, 3, stride=2),
        nn.Softplus(),
        pool(2),
        nn.Flatten(),
        nn.Dropout(0.3 if norm else 0.0),
        nn.Linear(5 * 2**dims, 30),
        nn.Tanh(),
        nn.Linear(30, classes),
    )
    with torch.no_grad():
        network[-1].weight.mul_(gain)
    return network


class Pair(nn.Module):
    """Logits and features, as many networks return them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = smooth(2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Both."""
        features = self.body[:-1](images)
        return self.body[-1](features), features


def first(output: tuple[Tensor, Tensor]) -> Tensor:
    """The logits of a ``Pair``."""
    return output[0]


def resnet(dims: int) -> nn.Module:
    """MONAI's ResNet with its strided stem and pooling, which have fast gradients on a CPU."""
    return ResNet(
        "basic", [1, 1, 1, 1], [8, 8, 8, 8], spatial_dims=dims, n_input_channels=1, num_classes=3,
        conv1_t_stride=2,
    )  # fmt: skip


def unet(dims: int) -> nn.Module:
    """A segmentation network of three classes."""
    return UNet(dims, 1, 3, channels=(4, 8), strides=(2,), num_res_units=1, act="tanh")


CASES = {
    "2D, float32": Case(partial(smooth, 2), FLAT),
    "3D, float32": Case(partial(smooth, 3), DEEP),
    "2D, float64": Case(partial(smooth, 2), FLAT, dtype=torch.float64),
    "3D, float64": Case(partial(smooth, 3), DEEP, dtype=torch.float64),
    "2D, one image": Case(partial(smooth, 2), FLAT, 1),
    "3D, one image": Case(partial(smooth, 3), DEEP, 1),
    "2D, one label": Case(partial(smooth, 2, 1), FLAT, options={"likelihood": "bernoulli"}),
    "3D, five labels": Case(partial(smooth, 3, 5), DEEP, options={"likelihood": "bernoulli"}),
    "2D, five labels, energy 0.9, float64": Case(
        partial(smooth, 2, 5),
        FLAT,
        options={"likelihood": "bernoulli", "energy": 0.9},
        dtype=torch.float64,
    ),
    "3D, rank 2": Case(partial(smooth, 3), DEEP, options={"rank": 2}),
    "2D, energy 0.9": Case(partial(smooth, 2), FLAT, options={"energy": 0.9}),
    "2D, nearly certain": Case(partial(smooth, 2, gain=60.0), FLAT),
    "3D, nearly certain labels": Case(
        partial(smooth, 3, 5, gain=60.0), DEEP, options={"likelihood": "bernoulli"}
    ),
    "2D, in train mode": Case(partial(smooth, 2, norm=True), FLAT, train=True),
    "2D, logits and features": Case(Pair, FLAT, options={"output_transform": first}),
    "2D, ResNet, a loop": Case(partial(resnet, 2), (1, 32, 32), options={"vjp_chunk": None}),
    "2D, ResNet, batched passes": Case(
        partial(resnet, 2), (1, 32, 32), options={"vjp_chunk": "auto"}
    ),
    "3D, ResNet": Case(partial(resnet, 3), (1, 21, 19, 17), 2),
    "2D, DenseNet121": Case(partial(DenseNet121, 2, 1, 3), (1, 34, 33), 2),
    "2D, truncated": Case(
        partial(smooth, 2, 24, 60.0), FLAT, options={"method": "truncated", "tolerance": 1e-2}
    ),
    "3D, Krylov": Case(
        partial(smooth, 3, 100), DEEP, options={"method": "krylov", "rank": 3, "tolerance": 1e-3}
    ),
    "2D, segmentation": Case(partial(unet, 2), (1, 12, 8), 2, {"rank": 3, "tolerance": 1e-3}),
    "3D, segmentation": Case(partial(unet, 3), (1, 8, 12, 4), 2, {"rank": 3, "tolerance": 1e-3}),
}
# Bundle runs: spatial axes, classes, further arguments of the command.
BUNDLES: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "bundle run, 2D": (2, 3, ()),
    "bundle run, 3D": (3, 3, ("--ifim_volumes", "['high','orth','sensitivity']")),
    "bundle run, 3D, labels, rank 2": (
        3,
        4,
        ("--ifim_likelihood", "bernoulli", "--ifim_rank", "2"),
    ),
}


def problem(case: Case) -> tuple[nn.Module, Tensor]:
    """Network and images (B, C, *S), the same for every call."""
    torch.manual_seed(0)
    network = case.make().to(case.dtype)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.train(case.train), torch.randn(case.batch, *case.shape, dtype=case.dtype)


def plain_call(case: Case, folder: Path) -> Answer:
    """``mi.eigenspace`` and what its value can do."""
    network, images = problem(case)
    space = mi.eigenspace(network, images, **case.options)
    high, orth = space.split(images)
    answer = {
        "logits": space.logits,
        "eigenvalues": space.eigenvalues,
        "trace": space.trace,
        "rank": space.rank,
        "eigenvectors": space.eigenvectors,
        "coefficients": space.coefficients(images),
        "high": high,
        "orth": orth,
        "sensitivity": space.sensitivity(),
        "quadratic form": space.quadratic_form(images),
    }
    if space.approximation is not None:
        values = dataclasses.asdict(space.approximation)
        answer |= {key: torch.as_tensor(value) for key, value in values.items()}
    return answer


def evaluator(case: Case, folder: Path, inferer: Inferer | None = None) -> Answer:
    """``IFIMHandler`` on MONAI's evaluator: what is put out for each image, and the table."""
    network, images = problem(case)
    items = [
        {"image": MetaTensor(image, meta={"filename_or_obj": f"image{i}.nii.gz"})}
        for i, image in enumerate(images)
    ]
    found: list[dict[str, Any]] = []
    engine = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items), batch_size=3),
        network=network,
        inferer=inferer,
        val_handlers=[mi.IFIMHandler(volumes=VOLUMES, output_dir=folder, **case.options)],
    )
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: found.extend(e.state.output))
    engine.run()
    return {**stacked(found), "ifim.csv": (folder / "ifim.csv").read_text()}


def with_inferer(case: Case, folder: Path) -> Answer:
    """The same, with one forward pass for prediction and iFIM."""
    return evaluator(case, folder, mi.IFIMInferer())


def transform(case: Case, folder: Path) -> Answer:
    """``IFIMComponentsd`` on each image."""
    network, images = problem(case)
    components = mi.IFIMComponentsd("image", network, volumes=VOLUMES, **case.options)
    return stacked([components({"image": image}) for image in images])


def stacked(items: list[dict[str, Any]]) -> Answer:
    """The ``ifim_*`` values of all images, (B, ...)."""
    return {
        key: torch.stack([torch.as_tensor(item[key]).as_subclass(Tensor) for item in items])
        for key in items[0]
        if key.startswith("ifim_") and not isinstance(items[0][key], str)
    }


def bundle_run(dims: int, classes: int, arguments: tuple[str, ...], folder: Path) -> Answer:
    """``python -m monai.bundle run`` with ``configs/ifim.yaml``: the table and every volume."""
    overlay = Path(mi.__file__).parents[1] / "configs" / "ifim.yaml"
    config = write_bundle(folder, dims, classes)
    for i in range(3):
        shape = [20 + i, 18, 15][:dims]
        values = torch.randn(shape, generator=torch.Generator().manual_seed(i)).numpy()
        nib.save(nib.Nifti1Image(values, AFFINE), folder / "images" / f"scan{i}.nii.gz")
    command = [sys.executable, "-m", "monai.bundle", "run", "--workflow_type", "infer"]
    command += ["--config_file", str([str(config), str(overlay)]), "--bundle_root", str(folder)]
    run = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"expected a bundle run to succeed, got {run.stdout}{run.stderr}")
    answer: Answer = {}
    for file in sorted((folder / "output").rglob("*.nii.gz")):
        image = nib.load(file)
        part = str(file.relative_to(folder / "output"))
        answer[part] = torch.tensor(np.array(image.dataobj))
        answer[f"{part}, affine"] = torch.tensor(np.array(image.affine))
    table = (folder / "output" / "ifim.csv").read_text()
    return {**answer, "ifim.csv": table.replace(str(folder), "")}


def write_bundle(folder: Path, dims: int, classes: int) -> Path:
    """A bundle whose preprocessing changes the grid; returns its configuration."""
    for part in ("configs", "models", "images"):
        (folder / part).mkdir()
    steps: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "NormalizeIntensityd", "keys": "image"},
        {"_target_": "Resized", "keys": "image", "spatial_size": [14, 16, 12][:dims]},
    ]
    if dims == 3:
        steps[2:2] = [
            {"_target_": "Orientationd", "keys": "image", "axcodes": "LAS"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": [1.0, 1.0, 1.5]},
        ]
    network = {
        "_target_": "ResNet", "block": "basic", "layers": [1, 1, 1, 1],
        "block_inplanes": [4, 6, 8, 10], "spatial_dims": dims, "n_input_channels": 1,
        "conv1_t_size": 3, "num_classes": classes,
    }  # fmt: skip
    torch.manual_seed(0)
    made = ResNet(**{key: value for key, value in network.items() if key != "_target_"})
    torch.save(made.state_dict(), folder / "models" / "model.pt")
    images = "$[{'image': f} for f in sorted(glob.glob(@bundle_root + '/images/*.nii.gz'))]"
    weights = {
        "_target_": "CheckpointLoader",
        "load_path": "$@bundle_root + '/models/model.pt'",
        "load_dict": {"model": "@network"},
    }
    config = {
        "imports": ["$import glob", "$import torch"],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/output'",
        "network": network,
        "preprocessing": {"_target_": "Compose", "transforms": steps},
        "dataset": {"_target_": "Dataset", "data": images, "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 2},
        "inferer": {"_target_": "SimpleInferer"},
        "handlers": [weights],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "$torch.device('cpu')",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }
    file = folder / "configs" / "inference.json"
    file.write_text(json.dumps(config))
    (folder / "configs" / "metadata.json").write_text("{}")
    return file


ENTRY_POINTS = {
    "mi.eigenspace": plain_call,
    "IFIMHandler": evaluator,
    "IFIMHandler, IFIMInferer": with_inferer,
    "IFIMComponentsd": transform,
}


def entry_points(name: str) -> dict[str, Callable[[Path], Answer]]:
    """What answers a case, by name; each wants an empty folder."""
    if name in BUNDLES:
        return {"monai.bundle run": partial(bundle_run, *BUNDLES[name])}
    return {point: partial(answer, CASES[name]) for point, answer in ENTRY_POINTS.items()}


def main(argv: list[str]) -> None:
    """Answer the cases that are named, and save what came.

    Args:
        argv: the file to write, and parts of names.
    """
    file, *parts = argv
    torch.set_num_threads(1)  # sums of one order
    answers: dict[str, dict[str, Answer]] = {}
    for name in [*CASES, *BUNDLES]:
        if parts and not any(part in name for part in parts):
            continue
        answers[name] = {}
        for point, answer in entry_points(name).items():
            with tempfile.TemporaryDirectory() as folder:
                answers[name][point] = answer(Path(folder))
    torch.save({"package": str(Path(mi.__file__).parent), "answers": answers}, file)


if __name__ == "__main__":
    main(sys.argv[1:])
