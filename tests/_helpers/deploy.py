"""A series that a bundle takes, and processes of the MONAI Deploy App SDK."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from _helpers.dicom import OBLIQUE, values_of, write_slice

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "ifim_signal_3d"
SIZE = 32


def write_study(folder, numbers=range(1, SIZE + 1), **fields):
    """Oblique slices of pixels that are not square, named against their order.

    Returns:
        The values (rows, columns) by the slices' numbers, of the bundle's own range.
    """
    normal, values = np.cross(OBLIQUE[:3], OBLIQUE[3:]), {}
    for number in numbers:
        position = [round(float(p), 6) for p in np.array([-10, 20, 7]) + number * 3 * normal]
        pixels = write_slice(
            folder / f"IM{100 - number:03d}",
            number,
            pixels=values_of(number, SIZE, SIZE),
            ImageOrientationPatient=OBLIQUE,
            ImagePositionPatient=position,
            RescaleSlope="0.005",
            RescaleIntercept="-2.5",
            **fields,
        )
        values[number] = pixels * 0.005 - 2.5
    return values


def run_application(*arguments, script=("-m", "monai_ifim.deploy"), cwd=ROOT):
    """A process of its own, as a hospital runs it: Holoscan ends its threads with it."""
    command = [sys.executable, *script, "-l", "WARN", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
