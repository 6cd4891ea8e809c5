"""What the iFIM adds to a whole inference run of a bundle: the same command with and without.

    python -m benchmarks.inference_run --output docs/performance/inference_run.json
    python -m benchmarks.inference_run bundles/ifim_mednist_2d --data FOLDER_OF_IMAGES

Without --data the images are noise in PNG files of 64×64, which the MedNIST bundle reads as well.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.harness import finish_options, interleave, option_parser, report

ROOT = Path(__file__).parents[1]
BUNDLE = Path("bundles") / "ifim_mednist_2d"
IMAGES = 180

# The handler is the second of our bundles' handlers.
WITHOUT = ["--inferer::_target_", "SimpleInferer", "--handlers::1::_disabled_", "True"]
BASE = "without iFIM (`predictions.csv` alone)"
VARIANTS = {
    BASE: WITHOUT,
    "with the numbers (`ifim.csv`)": ["--ifim_volumes", "[]"],
    "with both component volumes as well": [],
}


def run(bundle: Path, data: Path, device: str, arguments: Sequence[str]) -> None:
    """One whole process.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "monai.bundle", "run", "--workflow_type", "infer"]
        command += ["--config_file", str(bundle / "configs" / "inference.json")]
        command += ["--dataset_dir", str(data), "--output_dir", output]
        command += ["--device", f"$torch.device('{device}')", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not (Path(output) / "predictions.csv").is_file():
            raise RuntimeError(f"no predictions.csv from {command}:\n{done.stderr[-2000:]}")


def write_noise(folder: Path, count: int) -> None:
    """PNG files of 64×64."""
    generator = np.random.default_rng(0)
    for number in range(count):
        pixels = generator.integers(0, 256, size=(64, 64), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"noise_{number:03d}.png")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = option_parser(__doc__, repeats=3, seconds=45)
    parser.add_argument("bundle", type=Path, nargs="?", default=BUNDLE)
    parser.add_argument("--data", type=Path, help="folder of images")
    options = finish_options(parser, argv)
    with tempfile.TemporaryDirectory() as made:
        data = options.data
        if data is None:
            data = Path(made)
            write_noise(data, 2 if options.quick else IMAGES)
        variants = dict(list(VARIANTS.items())[: 2 if options.quick else None])
        bundle = options.bundle if options.bundle.is_absolute() else ROOT / options.bundle
        functions = {
            name: partial(run, bundle, data, str(options.device), arguments)
            for name, arguments in variants.items()
        }
        times = interleave(functions, options)
        count = sum(1 for path in data.rglob("*") if path.is_file())
    report(
        options,
        "inference_run",
        title="A whole inference run",
        claim="What the iFIM adds to a bundle's command, with its start, the reading and the "
        "writing of files.",
        columns=["run", "time, s", "ratio"],
        rows=[[name, times.spread(name), times.ratio(name, BASE)] for name in variants],
        notes=[
            f"`{bundle.name}` on {count} images{'' if options.data else ' of noise (PNG)'}, one "
            "image a batch; prediction and iFIM share one forward pass.",
        ],
    )


if __name__ == "__main__":
    main()
