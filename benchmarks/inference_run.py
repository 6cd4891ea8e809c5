"""What the iFIM adds to a whole inference run of a bundle.

Runs the same command with and without iFIM in turn and prints the ratio of the medians:

    python benchmarks/inference_run.py bundles/ifim_mednist_2d --data FOLDER_OF_IMAGES
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

# The handler is the second of our bundles' handlers.
WITHOUT = ["--inferer::_target_", "SimpleInferer", "--handlers::1::_disabled_", "True"]
VARIANTS = {
    "without iFIM": WITHOUT,
    "numbers only (ifim.csv)": ["--ifim_volumes", "[]"],
    "with both component volumes": [],
}


def run(bundle: Path, data: Path, options: list[str]) -> float:
    """Seconds of one whole process."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "monai.bundle", "run", "--workflow_type", "infer"]
        command += ["--config_file", str(bundle / "configs" / "inference.json")]
        command += ["--dataset_dir", str(data), "--output_dir", output, *options]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=os.environ)
        seconds = time.perf_counter() - start
        if not (Path(output) / "predictions.csv").is_file():
            raise RuntimeError(f"no predictions.csv from {command}")
        return seconds


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(options.repeats):
        for name, variant in VARIANTS.items():
            times[name].append(run(options.bundle, options.data, variant))
    images = sum(1 for path in options.data.rglob("*") if path.is_file())
    print(
        f"{options.bundle.name}, {images} images, {platform.machine()}, "
        f"{os.cpu_count()} cores, torch {torch.__version__}, median of {options.repeats}"
    )
    base = statistics.median(times["without iFIM"])
    for name, values in times.items():
        median = statistics.median(values)
        spread = f"{min(values):.1f} to {max(values):.1f}"
        print(f"{name:28s} {median:6.1f} s ({spread} s)  ratio {median / base:.2f}")


if __name__ == "__main__":
    main()
