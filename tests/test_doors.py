"""One number, four doors; and the scans, networks and hosts that the other tests share."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, NormalizeIntensityd
from torch import nn

import monai_ifim as mi

# MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

# Pairwise distinct, and distinct from every batch size, channel and class count below.
SHAPES = {2: (13, 11), 3: (13, 11, 9)}


def oblique(number=0):
    """Affine with unequal spacing, two rotations and an offset that no two scans share."""
    a, b = 0.3 + 0.05 * number, -0.2
    about_z = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
    about_x = [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(about_z) @ np.array(about_x) @ np.diag([0.8, 1.3, 2.1])
    affine[:3, 3] = [-31.5 + number, 12.25, 7.75 - number]
    return affine


def write_scan(path, shape, number=0):
    """A NIfTI of smooth waves on noise; what it holds depends on ``number``."""
    random = np.random.default_rng(number)
    grid = np.indices(shape).astype(np.float32)
    waves = sum(np.sin(0.3 * (axis + 1) * g + number) for axis, g in enumerate(grid))
    values = (waves + 0.3 * random.standard_normal(shape)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, oblique(number)), path)
    return str(path)


def write_scans(folder, dims=3, count=5):
    """Paths of ``count`` different scans."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [write_scan(folder / f"scan{i}.nii.gz", SHAPES[dims], i) for i in range(count)]


def unreadable(path):
    """A file with the right name and the wrong bytes."""
    Path(path).write_bytes(b"not an image")
    return str(path)


def preprocessing():
    """File to (C, *S)."""
    return Compose(
        [
            LoadImaged("image", image_only=True),
            EnsureChannelFirstd("image"),
            NormalizeIntensityd("image"),
        ]
    )


def dataset(files, transform=None):
    """Dictionaries with image and label, as a bundle's data list has them."""
    items = [{"image": file, "label": i % 3} for i, file in enumerate(files)]
    return Dataset(items, preprocessing() if transform is None else transform)


def smooth_network(dims=3, classes=4, channels=1, seed=0):
    """A small classifier without kinks, so that four ways of rounding agree."""
    conv, pool = (
        (nn.Conv2d, nn.AdaptiveAvgPool2d) if dims == 2 else (nn.Conv3d, nn.AdaptiveAvgPool3d)
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(
            conv(channels, 4, 3),
            nn.Tanh(),
            conv(4, 5, 3, stride=2),
            nn.Softplus(),
            pool(2),
            nn.Flatten(),
            nn.Linear(5 * 2**dims, 7),
            nn.Tanh(),
            nn.Linear(7, classes),
        )


class Recorder:
    """Keeps what an engine has put out for each image, at the end of every iteration."""

    def __init__(self):
        self.items = []

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._record)

    def _record(self, engine):
        output = engine.state.output
        self.items.extend(output if isinstance(output, list) else [output])


def evaluate(network, loader, handler=None, **options):
    """Run a MONAI evaluator on the CPU.

    Returns:
        The evaluator and what it has put out for each image.
    """
    recorder = Recorder()
    handlers = [recorder] if handler is None else [handler, recorder]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=network,
        val_handlers=[*handlers, *options.pop("more_handlers", [])],
        **options,
    )
    evaluator.run()
    return evaluator, recorder.items


def count_forwards(network):
    """A list that grows by one with each forward pass."""
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    return calls


def assert_close(actual, expected, tolerance=1e-5):
    """Equal relative to the largest value of each."""
    actual, expected = (torch.as_tensor(t).as_subclass(torch.Tensor) for t in (actual, expected))
    assert actual.shape == expected.shape
    distance = (actual.double() - expected.double()).abs().max()
    assert distance <= tolerance * expected.double().abs().max()


KEYS = ("ifim_eigenvalues", "ifim_trace", "ifim_high", "ifim_orth", "ifim_sensitivity")
VOLUMES = ("high", "orth", "sensitivity")


@pytest.mark.parametrize(
    ("likelihood", "options"),
    [("categorical", {}), ("categorical", {"rank": 2}), ("bernoulli", {"energy": 0.9})],
)
@pytest.mark.parametrize("dims", [2, 3])
def test_four_doors_give_the_same_numbers(tmp_path, dims, likelihood, options):
    files = write_scans(tmp_path, dims, count=5)
    data, network = dataset(files), smooth_network(dims)
    loader = DataLoader(data, batch_size=3)
    options = {"likelihood": likelihood, **options}

    core = {key: [] for key in (*KEYS, "ifim_rank")}
    for batch in loader:
        images = batch["image"].as_tensor()
        space = mi.eigenspace(network, images, **options)
        high, orth = space.split(images)
        values = (space.eigenvalues, space.trace, high, orth, space.sensitivity(), space.rank)
        for key, value in zip(core, values, strict=True):
            core[key].extend(value)

    handler = mi.IFIMHandler(volumes=VOLUMES, **options)
    _, alone = evaluate(network, loader, handler)
    handler = mi.IFIMHandler(volumes=VOLUMES, **options)
    _, with_inferer = evaluate(network, loader, handler, inferer=mi.IFIMInferer())
    array = mi.IFIMComponents(network, volumes=VOLUMES, **options)
    from_array = [array(item["image"]) for item in data]
    dictionary = mi.IFIMComponentsd("image", network, volumes=VOLUMES, **options)
    from_dictionary = [dictionary(item) for item in data]

    assert min(core["ifim_rank"]) >= 1
    for door in (alone, with_inferer, from_array, from_dictionary):
        assert len(door) == len(files)
        for i, item in enumerate(door):
            assert item["ifim_rank"] == core["ifim_rank"][i]
            for key in KEYS:
                assert_close(item[key], core[key][i])
            # Every eigenvalue, not only the largest, to the same relative tolerance.
            torch.testing.assert_close(
                torch.as_tensor(item["ifim_eigenvalues"]).as_subclass(torch.Tensor),
                core["ifim_eigenvalues"][i],
                rtol=1e-5,
                atol=0,
            )


def test_two_images_do_not_share_their_numbers(tmp_path):
    """Guards the test above: all doors agreeing on one constant would pass it."""
    files = write_scans(tmp_path, 3, count=2)
    images = torch.stack([item["image"].as_tensor() for item in dataset(files)])
    space = mi.eigenspace(smooth_network(3), images)
    assert abs(space.trace[0] / space.trace[1] - 1) > 1e-2
    assert (space.eigenvalues > 0).all()
