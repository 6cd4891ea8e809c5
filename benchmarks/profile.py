"""Where the time of an image goes, step by step, from its file to its results.

python -m benchmarks.profile --output docs/performance/profile.json
python -m benchmarks.profile --quick        # tiny sizes, as a smoke test

Functions of each step are wrapped in a clock; a step's time is without that of the steps inside it.
The volumes are written before the next image is read here, so that the steps add up to the whole.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pydicom
import torch
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer
from monai.networks.nets import ResNet
from monai.transforms import Compose, EnsureChannelFirstd, LoadImage, Resized, ScaleIntensityd
from torch import nn

from benchmarks.harness import read_options, report
from benchmarks.inference_run import write_noise
from benchmarks.volumes import KEYS, Waiting, network, preprocessing, write_scan
from monai_ifim import (
    FaultTolerantDataLoader,
    IFIMHandler,
    IFIMInferer,
    LoadPictured,
    find_images,
)
from monai_ifim.data import loaders, nifti
from monai_ifim.data.run_table.writer import TableWriter
from monai_ifim.handlers import computation
from monai_ifim.outputs import BatchOutputs
from monai_ifim.transforms.invert import InvertComponentsd

STEPS = (
    "read", "preprocess", "forward", "passes", "numbers", "invert", "compress", "write", "rows",
    "the rest",
)  # fmt: skip
WORK = ("read", "forward", "passes", "compress")  # what no run can do without


class Clock:
    """Seconds of each step, without those of the steps inside it."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._inside = [0.0]

    def around(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with a clock."""

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            self._inside.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.perf_counter() - start
                self.seconds[step] += spent - self._inside.pop()
                self._inside[-1] += spent

        return timed

    @contextmanager
    def running(self) -> Iterator[None]:
        """Clocks around every step."""
        places: list[tuple[str, Any, str]] = [
            ("read", LoadImage, "__call__"),
            ("read", loaders, "check_source"),
            ("preprocess", Compose, "__call__"),
            ("forward", SimpleInferer, "__call__"),
            ("passes", torch.autograd, "grad"),
            ("numbers", computation, "outputs_of_network"),
            ("invert", InvertComponentsd, "restore"),
            ("compress", nifti, "_write"),
            ("write", Waiting, "__call__"),
            ("rows", BatchOutputs, "rows"),
            *(("rows", TableWriter, name) for name in ("look", "start", "stage", "commit")),
            *(("rows", TableWriter, name) for name in ("begin", "finish")),
        ]
        with ExitStack() as stack:
            for step, place, name in places:
                timed = self.around(step, getattr(place, name))
                stack.enter_context(mock.patch.object(place, name, timed))
            yield


def picture_network() -> nn.Module:
    """That of the MedNIST bundle: six classes."""
    return ResNet(
        "basic", [1, 1, 1, 1], [16, 32, 64, 128], spatial_dims=2, n_input_channels=1,
        conv1_t_size=5, conv1_t_stride=2, no_max_pool=True, num_classes=6,
    )  # fmt: skip


def picture_preprocessing() -> Compose:
    """That of the MedNIST bundle."""
    return Compose(
        [
            LoadPictured("image"),
            EnsureChannelFirstd("image"),
            ScaleIntensityd("image"),
            Resized("image", (64, 64), mode="bilinear", anti_aliasing=True),
        ]
    )


def write_slices(folder: Path, shape: tuple[int, ...], number: int) -> None:
    """A DICOM series of noise, one file a slice."""
    generator = np.random.default_rng(number)
    folder.mkdir()
    for k in range(shape[2]):
        ds = pydicom.Dataset()
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"1.2.3.{number + 1}.{k + 1}"
        ds.SeriesInstanceUID, ds.Modality, ds.InstanceNumber = f"1.2.4.{number + 1}", "MR", k + 1
        ds.FrameOfReferenceUID, ds.SliceThickness = f"1.2.5.{number + 1}", 1.5
        ds.ImageOrientationPatient, ds.PixelSpacing = [0.8, 0.6, 0, -0.6, 0.8, 0], [1, 1]
        ds.ImagePositionPatient = [-80, -80, 1.5 * k]
        ds.Columns, ds.Rows = shape[:2]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.PixelData = generator.integers(0, 1000, shape[1::-1], dtype=np.uint16).tobytes()
        ds.save_as(folder / f"{k:03d}.dcm", enforce_file_format=True)


def evaluation(
    model: nn.Module, transform: Compose, entries: list, options: Any, size: int, output: Path
) -> None:
    """A run over images."""
    data = Dataset(entries, transform)
    SupervisedEvaluator(
        device=options.device,
        val_data_loader=FaultTolerantDataLoader(data, batch_size=size),
        network=model,
        inferer=IFIMInferer(),
        val_handlers=[
            IFIMHandler(
                output_dir=output,
                fail_at_end=True,
                postprocessing=Waiting(KEYS, output, transform),
            )
        ],
        prepare_batch=lambda batch, device, *_, **__: (batch["image"].to(device), None),
    ).run()


def measure(once: Callable[[Path], None], count: int, repeats: int) -> dict[str, float]:
    """Median milliseconds of an image by step."""
    rounds: list[Counter[str]] = []
    for number in range(repeats + 1):  # the first one is the warm-up
        clock = Clock()
        with tempfile.TemporaryDirectory() as output, clock.running():
            clock.around("the rest", once)(Path(output))
        if number or not repeats:
            rounds.append(clock.seconds)
    return {s: 1000 * statistics.median(r[s] for r in rounds) / count for s in STEPS}


def cases(folder: Path, options: Any) -> dict[str, tuple[Callable[[Path], None], int]]:
    """What is measured, with the number of its images."""
    few, many = (1, 2) if options.quick else (2, 40)
    shape = (20, 24, 16) if options.quick else (160, 160, 96)
    for name in ("pictures", "volumes", "series"):
        (folder / name).mkdir()
    write_noise(folder / "pictures", many)
    for number in range(few):
        write_scan(folder / "volumes", shape, number)
        write_slices(folder / "series" / str(number), shape, number)
    small, large = picture_network().eval(), network().eval()
    first, second = picture_preprocessing(), preprocessing()
    chosen = {
        "PNG 64×64, K=6": (small, first, "pictures", 1, many),
        "the same, batch 8": (small, first, "pictures", 8, many),
        f"NIfTI {shape[0]}×{shape[1]}×{shape[2]}, K=3": (large, second, "volumes", 1, few),
        "the same as a DICOM series": (large, second, "series", 1, few),
    }
    return {
        name: (
            partial(evaluation, model, transform, find_images(folder / images), options, size),
            count,
        )
        for name, (model, transform, images, size, count) in chosen.items()
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    options = read_options(__doc__, argv, repeats=3)
    rows: list[list[Any]] = []
    shares = []
    with tempfile.TemporaryDirectory() as made:
        for name, (once, count) in cases(Path(made), options).items():
            steps = measure(once, count, 0 if options.quick else options.repeats)
            whole = sum(steps.values())
            shares.append(1 - sum(steps[step] for step in WORK) / whole)
            rows.append([name, whole, *steps.values(), 100 * shares[-1]])
    report(
        options,
        "profile",
        title="Where an image's time goes",
        claim="Milliseconds of an image by step, from its file to both component volumes and its "
        f"row; what is neither {', '.join(WORK[:-1])} nor {WORK[-1]} is "
        f"{100 * min(shares):.0f} to {100 * max(shares):.0f} percent.",
        columns=["image", "all", *STEPS, "other than these four, %"],
        rows=rows,
        notes=[
            "Passes: the K − 1 backward passes. Numbers: eigenvalues, components, statistics. "
            "Invert: both volumes back on the grid of the file. Compress: NIfTI and gzip of both. "
            "Write: names, headers, files. Rows: the journal and the table. The rest: MONAI's "
            "engine, batches, checks of the files.",
            "Medians of the runs, in one process, after a warm-up; the volumes are written before "
            "the next image is read, so that the steps add up.",
        ],
        packages=("isal", "nibabel", "pydicom"),
    )


if __name__ == "__main__":
    main()
