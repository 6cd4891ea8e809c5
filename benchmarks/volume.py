"""A whole CT volume: what memory it takes, and what saving memory costs in time.

python -m benchmarks.volume --output docs/performance/volume.json
python -m benchmarks.volume --quick        # tiny sizes, as a smoke test
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import torch
from monai.networks.nets import resnet18
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.cases import Case, lower_bound
from benchmarks.harness import Cell, read_options, report
from benchmarks.memory import peak_memory
from monai_ifim import eigenspace
from monai_ifim.core import at_rest, run_forward


class Checkpointed(nn.Module):
    """A ResNet whose first layers, the ones at full resolution, are computed again backwards."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def stem(self, x: Tensor) -> Tensor:
        """Up to the first pooling."""
        network = self.network
        return network.maxpool(network.act(network.bn1(network.conv1(x))))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        network = self.network
        x = checkpoint(self.stem, x, use_reentrant=False)
        for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
            x = checkpoint(layer, x, use_reentrant=False)
        return network.fc(network.avgpool(x).flatten(1))


def _network(classes: int, checkpointed: bool) -> nn.Module:
    network = resnet18(spatial_dims=3, n_input_channels=1, num_classes=classes)
    return Checkpointed(network) if checkpointed else network


def case(shape: tuple[int, ...], checkpointed: bool) -> Case:
    """ResNet-18, three classes, one volume."""
    name = f"ResNet-18 {'×'.join(map(str, shape))}, K=3"
    return Case(name, partial(_network, 3, checkpointed), (1, 1, *shape), 3)


def timed_lower_bound(network: nn.Module, images: Tensor) -> float:
    """Seconds."""
    start = time.perf_counter()
    lower_bound(network, images)
    return time.perf_counter() - start


def timed_eigenspace(network: nn.Module, images: Tensor, **choices: object) -> float:
    """Seconds."""
    start = time.perf_counter()
    eigenspace(network, images, **choices)  # type: ignore[arg-type]
    return time.perf_counter() - start


def activations(network: nn.Module, images: Tensor) -> float:
    """What the graph of one pass keeps besides the parameters, in MB of 10⁶ bytes."""
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with at_rest(network, images.device), torch.autograd.graph.saved_tensors_hooks(pack, _same):
        forward = run_forward(network, images)
        total = sum(kept.values()) / 1e6
    del forward
    return total


def _same(tensor: Tensor) -> Tensor:
    return tensor


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    options = read_options(__doc__, argv)
    shape = (32, 32, 16) if options.quick else (256, 256, 128)
    plain, saving = case(shape, False), case(shape, True)
    runs = {
        "lower bound: one forward, two backward passes": (plain, timed_lower_bound),
        "`eigenspace`": (plain, timed_eigenspace),
        "`eigenspace`, network with checkpoints": (saving, timed_eigenspace),
    }
    if options.device.type == "cuda":
        offloaded = partial(timed_eigenspace, offload=True)
        runs["`eigenspace`, `offload=True`"] = (plain, offloaded)
        runs["`eigenspace`, `vjp_chunk=2`"] = (plain, partial(timed_eigenspace, vjp_chunk=2))
    rows: list[list[Cell]] = []
    for name, (kind, run) in runs.items():
        kept = peak_memory(kind.build, activations, options.device)
        peak = peak_memory(kind.build, run, options.device)
        rows.append([name, peak.failure or peak.value, peak.cell, kept.cell and kept.value])
    ours = [row for row in rows if isinstance(row[2], float)]
    image = torch.Size(shape).numel() * 4 / 1e6
    report(
        options,
        "volume",
        title="A whole volume",
        claim=f"{plain.name}: `eigenspace` needs {ours[1][2] / 1e3:.1f} GB beyond the network and "
        f"the volume, and {ours[2][2] / 1e3:.1f} GB with checkpoints.",
        columns=["run", "s", "peak, MB", "kept by the graph, MB"],
        rows=rows,
        notes=[
            f"The volume itself and each gradient column are {image:.0f} MB. Each run in a process "
            "of its own, once. The graph's part is counted in our own forward pass.",
            "With checkpoints the graph keeps less, but the peak stays: a piece between two of "
            "them is made again at once, with its gradients, and the first layer is at full "
            "resolution.",
            "`offload` matters on a GPU only: on a CPU there is nowhere else to put them.",
        ],
    )


if __name__ == "__main__":
    main()
