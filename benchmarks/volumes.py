"""What two component volumes add to an image: returned to the scan's grid, compressed, written.

python -m benchmarks.volumes --output docs/performance/volumes.json
python -m benchmarks.volumes --quick        # a tiny size, as a smoke test
"""

from __future__ import annotations

import gzip
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.networks.nets import ResNet
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    SaveImaged,
    Spacingd,
)
from torch import nn

from benchmarks.harness import Function, Times, interleave, read_options, report
from monai_ifim import IFIMComponentsd, IFIMHandler, IFIMInferer, SaveComponentsd

KEYS = ["ifim_high", "ifim_orth"]
NUMBERS = "numbers alone (`ifim.csv`)"
OURS = "and both volumes, `SaveComponentsd` beside the next images"
WAITING = "and both volumes, `SaveComponentsd` before the next image"
STOCK = "and both volumes, MONAI's `Invertd` and `SaveImaged`"
MOST = 1.3
IMAGES = 4  # of a run


def network() -> nn.Module:
    """ResNet-18 with an eighth of its channels, three classes: little work beside the volumes."""
    return ResNet(
        "basic", [2, 2, 2, 2], [8, 16, 32, 64], spatial_dims=3, n_input_channels=1,
        conv1_t_size=3, conv1_t_stride=2, num_classes=3,
    )  # fmt: skip


def write_scan(folder: Path, shape: tuple[int, ...], number: int = 0) -> str:
    """A head of smooth noise in air, on an oblique grid."""
    generator = torch.Generator().manual_seed(number)
    coarse = torch.randn([1, 1, *(size // 4 for size in shape)], generator=generator)
    values = nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0, 0]
    values = 100 + 20 * values + 3 * torch.randn(shape, generator=generator)
    axes = [torch.linspace(-1.1, 1.1, size) for size in shape]
    radius = sum(x.square() for x in torch.meshgrid(*axes, indexing="ij"))
    values[radius > 1] = 0
    angle = 0.1
    affine = np.diag([-1.0, 1.0, 1.5, 1.0])
    affine[:2, :2] @= [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    path = folder / f"scan_{number}.nii.gz"
    nib.save(nib.Nifti1Image(values.numpy().astype(np.int16), affine), path)
    return str(path)


def preprocessing() -> Compose:
    """File to the network's grid: turned and resampled, as bundles do it."""
    return Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", "RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacingd("image", pixdim=(1.05, 1.05, 1.4), mode="bilinear"),
            NormalizeIntensityd("image", nonzero=True),
        ]
    )


def stock_chain(transform: Compose, output: Path) -> Compose:
    """What a configuration says with MONAI's transforms alone."""
    where = {"output_dir": output, "separate_folder": False, "resample": False}
    saving = [SaveImaged(key, output_postfix=key, print_log=False, **where) for key in KEYS]
    return Compose([Invertd(KEYS, transform, "image", nearest_interp=False), *saving])


def evaluation(
    device: torch.device, model: nn.Module, scans: Sequence[str], transform: Compose, **handler: Any
) -> Function:
    """A run, from the images' files to their results."""
    items = [{"image": scan} for scan in scans]

    def run() -> None:
        SupervisedEvaluator(
            device=device,
            val_data_loader=DataLoader(Dataset(items, transform), batch_size=1),
            network=model,
            inferer=IFIMInferer(),
            val_handlers=[IFIMHandler(fail_at_end=True, **handler)],
            prepare_batch=_without_label,
        ).run()

    return run


def _without_label(batch: Mapping[str, Any], device: torch.device, *_: Any, **__: Any) -> Any:
    return batch["image"].to(device), None


def parts(model: nn.Module, scan: str, transform: Compose, output: Path) -> dict[str, Function]:
    """The steps that the volumes take, each alone."""
    item = IFIMComponentsd("image", model)(transform({"image": scan}))
    stay = SaveComponentsd(KEYS, output, None, output_ext=".nii")
    invert = Invertd(KEYS, transform, "image", nearest_interp=False)
    back = SaveComponentsd(KEYS, output, transform)(item)
    content = [back[key][0].numpy().tobytes("F") for key in KEYS]
    steps: dict[str, Function] = {
        "back to the scan's grid, both at once": lambda: _returned(transform, item),
        "back to the scan's grid, one after the other": lambda: invert(item),
        "compressed by zlib, level 1": lambda: [gzip.compress(c, 1) for c in content],
        "written without compression": lambda: stay(back),
    }
    if find_spec("isal"):
        steps["compressed by isal, level 1"] = _with_isal(content)
    return steps


def _returned(transform: Compose, item: dict[str, Any]) -> Any:
    from monai_ifim.transforms.scan_grid import ScanGrid

    return ScanGrid(transform, "image")({key: item[key] for key in KEYS}, item["image"])


def _with_isal(content: Sequence[bytes]) -> Callable[[], object]:
    from isal import igzip

    return lambda: [igzip.compress(c, 1) for c in content]


class Waiting(SaveComponentsd):
    """Writes before the next image is read."""

    in_background = False


class Counted:
    """A function with the processor's seconds of each call, of all threads together.

    On a machine with other tenants they say more than the clock on the wall.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self.seconds: list[float] = []

    def __call__(self) -> None:
        """Call it."""
        start = time.process_time()
        self.function()
        self.seconds.append(time.process_time() - start)


def runs(folder: Path, device: torch.device, scans: Sequence[str]) -> dict[str, Counted]:
    """Images with their numbers alone, and with their volumes as well."""
    transform, model = preprocessing(), network().to(device)
    save = SaveComponentsd(KEYS, folder / "ours", transform)
    wait = Waiting(KEYS, folder / "waiting", transform)
    chain = stock_chain(transform, folder / "stock")
    variants: dict[str, dict[str, Any]] = {
        NUMBERS: {"output_dir": folder / "numbers", "volumes": []},
        OURS: {"output_dir": folder / "ours", "postprocessing": save},
        WAITING: {"output_dir": folder / "waiting", "postprocessing": wait},
        STOCK: {"output_dir": folder / "stock", "postprocessing": chain},
    }
    return {
        name: Counted(evaluation(device, model, scans, transform, **handler))
        for name, handler in variants.items()
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    options = read_options(__doc__, argv, repeats=9, seconds=60)
    shape = (20, 24, 16) if options.quick else (160, 160, 96)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        scans = [write_scan(folder, shape, number) for number in range(IMAGES)]
        functions = runs(folder, options.device, scans)
        times = interleave(functions, options)
        rounds = {n: functions[n].seconds[-len(seconds) :] for n, seconds in times.rounds.items()}
        times, processor = (  # of an image; the processor's without the warm-up
            Times({n: [s / IMAGES for s in seconds] for n, seconds in each.items()}, times.failures)
            for each in (times.rounds, rounds)
        )
        steps = interleave(parts(network(), scans[0], preprocessing(), folder / "parts"), options)
        files = list((folder / "ours").glob("*.nii.gz"))
        written = sum(file.stat().st_size for file in files) / 1e6 / IMAGES
    ratio = times.ratio(OURS, NUMBERS)
    claimed = f"{ratio[0]:.2f}" if isinstance(ratio, list) else f"({ratio})"
    size, raw = "×".join(map(str, shape)), 2 * 4 * np.prod(shape) / 1e6
    report(
        options,
        "volumes",
        title="Two component volumes",
        claim=f"On a scan of {size}, both component volumes make an image take {claimed} times "
        f"what its numbers take alone (goal: at most {MOST}).",
        columns=["one image", "s", "ratio", "processor time, s", "ratio of these"],
        rows=[
            [
                name,
                *(
                    cell
                    for t in (times, processor)
                    for cell in (t.spread(name), t.ratio(name, NUMBERS))
                ),
            ]
            for name in functions
        ],
        tables=[
            {
                "heading": "What the two volumes take, each step alone:",
                "columns": ["step", "s"],
                "rows": [[name, steps.spread(name)] for name in steps.rounds],
            }
        ],
        notes=[
            f"A run over {IMAGES} images, divided by these, "
            "from the file (NIfTI, oblique) to the results in one process: reading, `Orientationd` "
            "and `Spacingd`, one forward pass of a ResNet-18 with an eighth of its channels, two "
            "backward passes, the table. The runs take turns, and a ratio is taken within a round.",
            "Processor time is that of all threads together; other tenants of the machine move it "
            "less than the clock.",
            f"Two volumes in float32 are {raw:.0f} MB, and {written:.0f} MB on the disk.",
            "Both volumes are channels of one image on their way back, so that its sampling grid "
            "is built once; `pip install 'monai_ifim[fast]'` brings isal.",
        ],
        packages=("isal", "nibabel"),
    )


if __name__ == "__main__":
    main()
