"""On a GPU: the numbers of the CPU in float64, the memory, and the hosts."""

import csv
import logging
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.networks.nets import DenseNet121, UNet
from torch import nn

import monai_ifim as mi

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ROOT = Path(__file__).parents[1]
DEVICE = "cuda"


def network_of(axes, outputs, width=4):
    """Smooth, so that no unit sits at its kink."""
    convolution = (nn.Conv2d, nn.Conv3d)[axes - 2]
    pooling = (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[axes - 2]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            convolution(2, width, 3, padding=1),
            nn.GELU(),
            convolution(width, width, 3, stride=2),
            nn.Tanh(),
            pooling(2),
            nn.Flatten(),
            nn.Linear(width * 2**axes, outputs),
        ).eval()


def images_of(axes, count=3, size=11):
    generator = torch.Generator().manual_seed(1)
    shape = (size, size + 1, size + 2)[:axes]
    return torch.randn(count, 2, *shape, generator=generator)


@pytest.fixture(autouse=True)
def exact_products():
    """TF32 keeps ten bits of a product: not what is compared here."""
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolution


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"likelihood": "bernoulli"},
        {"energy": 0.9},
        {"vjp_chunk": 3},
        {"vjp_chunk": None},
        {"offload": True},
        {"tolerance": 1e-3},
        {"method": "krylov", "rank": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_the_numbers_of_the_cpu(axes, options, dtype, tolerance):
    network, images = network_of(axes, 7), images_of(axes)
    expected = mi.eigenspace(network.double(), images.double(), **options)
    network, here = network.to(DEVICE, dtype), images.to(DEVICE, dtype)
    space = mi.eigenspace(network, here, **options)
    assert space.eigenvalues.device.type == DEVICE
    assert space.rank.tolist() == expected.rank.tolist()
    torch.testing.assert_close(
        space.eigenvalues.cpu(), expected.eigenvalues, rtol=tolerance, atol=1e-12
    )
    high, orth = space.split(here)
    assert high.device.type == DEVICE
    torch.testing.assert_close(high + orth, here)
    torch.testing.assert_close(
        high.cpu().double(), expected.split(images.double())[0], rtol=0, atol=100 * tolerance
    )
    assert (space.gradients.device.type == "cpu") is bool(options.get("offload"))


def test_a_segmentation():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(2, 2, 3, (4, 8), (2,), act="gelu").double().eval()
    images = images_of(2, size=16)[:, :, :16, :16].double()
    expected = mi.eigenspace(network, images, rank=3, tolerance=1e-6)
    space = mi.eigenspace(network.to(DEVICE), images.to(DEVICE), rank=3, tolerance=1e-6)
    torch.testing.assert_close(space.eigenvalues.cpu(), expected.eigenvalues, rtol=1e-4, atol=0)


def test_a_batch_of_passes_that_does_not_fit_is_halved(caplog):
    network = nn.Sequential(nn.Conv2d(1, 16, 3), nn.GELU(), nn.Flatten(), nn.LazyLinear(64))
    network, images = network.to(DEVICE).eval(), torch.rand(1, 1, 1024, 1024, device=DEVICE)
    with torch.no_grad():
        network(images)
    expected = mi.eigenspace(network, images, vjp_chunk=None).eigenvalues
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    used = torch.cuda.memory_reserved() + (2 << 30)  # a pass holds 64 MB, and 63 of them 4 GB
    torch.cuda.set_per_process_memory_fraction(used / total)
    try:
        with caplog.at_level(logging.WARNING):
            space = mi.eigenspace(network, images, vjp_chunk=63)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory" in caplog.text
    torch.testing.assert_close(space.eigenvalues, expected, rtol=1e-3, atol=1e-12)


def test_random_state_and_flags_are_left():
    network = nn.Sequential(network_of(2, 3), nn.Dropout(0.5)).to(DEVICE).train()
    images = images_of(2).to(DEVICE)
    before = torch.cuda.get_rng_state()
    with torch.autocast(DEVICE):
        space = mi.eigenspace(network, images)
        assert torch.is_autocast_enabled(DEVICE)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert all(module.training for module in network)
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    torch.testing.assert_close(space.trace, mi.eigenspace(network, images).trace)


def test_an_evaluator_and_a_transform(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = DenseNet121(spatial_dims=2, in_channels=2, out_channels=3).to(DEVICE)
    images = images_of(2, count=5, size=40)
    evaluator = SupervisedEvaluator(
        device=torch.device(DEVICE),
        val_data_loader=DataLoader([{"image": i, "label": 0} for i in images], batch_size=2),
        network=network,
        inferer=mi.IFIMInferer(),
        val_handlers=[mi.IFIMHandler(output_dir=tmp_path)],
    )
    evaluator.run()
    with (tmp_path / "ifim.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["ok"] * 5
    last = evaluator.state.output[-1]
    assert last["ifim_high"].device.type == DEVICE
    alone = mi.IFIMComponents(network.eval())(images[-1])
    assert alone["ifim_high"].device.type == "cpu"  # where the image was
    torch.testing.assert_close(last["ifim_trace"], float(alone["ifim_trace"]), rtol=1e-3, atol=0)


def test_a_bundle_runs_on_the_gpu(tmp_path):
    python = [sys.executable, "-m"]
    images, results = tmp_path / "images", tmp_path / "results"
    write = [*python, "monai_ifim", "signal-images", "3d", str(images), "--count", "3"]
    subprocess.run(write, check=True, cwd=ROOT, timeout=300)
    config = ROOT / "bundles/ifim_signal_3d/configs/inference.json"
    run = [*python, "monai.bundle", "run", "--config_file", str(config)]
    run += ["--workflow_type", "infer", "--dataset_dir", str(images), "--output_dir", str(results)]
    subprocess.run(run, check=True, cwd=ROOT, timeout=300)
    source = nib.load(min(images.glob("*.nii.gz")))
    written = sorted(results.rglob("*_ifim_high.nii.gz"))
    assert len(written) == 3
    assert nib.load(written[0]).shape == source.shape


def test_nuisances_shares_and_organs_are_those_of_the_cpu(tmp_path):
    images = images_of(2).double()
    organs = torch.zeros(3, 1, 11, 12)
    organs[:, :, 2:7, 3:9] = 1
    batch = {"image": images, "organs": organs, "label": torch.zeros(3)}
    tables = {}
    shares = mi.ShareColumns("organs", [1])
    every = [mi.NuisanceColumns(["gain", "rotation", "blur", "noise"], 1e-3), shares]
    few = [mi.NuisanceColumns(["gain", "noise"], 1e-3), shares]
    parts = {
        "asked": {"questions": every},
        "organ": {"perturbation": mi.MaskOf("organs", [1])},
        "offloaded": {"questions": few, "offload": True},
    }
    for device in ("cpu", DEVICE):
        for part, options in parts.items():
            network = network_of(2, 3).double().to(device)
            handler = mi.IFIMHandler(output_dir=tmp_path / f"{part} {device}", **options)
            SupervisedEvaluator(
                torch.device(device),
                [batch],
                network,
                inferer=mi.IFIMInferer(),
                val_handlers=[handler],
            ).run()
            with (tmp_path / f"{part} {device}" / "ifim.csv").open() as file:
                tables[part, device] = list(csv.DictReader(file))
    for part in parts:
        for one, other in zip(tables[part, "cpu"], tables[part, DEVICE], strict=True):
            assert one["status"] == other["status"] == "ok"
            for name in one:
                if name not in ("file", "status") and not name.endswith("_class"):
                    assert (one[name] == "") == (other[name] == "")
                    if one[name]:
                        assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-3)
