"""The demonstration: bundles, real commands, results on disk, and a picture of each."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from monai_ifim.bundle import load_bundle_classifier
from monai_ifim.data.tables import read_table
from monai_ifim.experiments import agreement, signal_task, write_signal_images
from monai_ifim.messages import RESEARCH_ONLY
from monai_ifim.report.cases.folder import read_labels
from monai_ifim.report.html import write_report
from monai_ifim.report.sheet import write_sheet

SIGNAL = {"ifim_signal_2d": "2d", "ifim_signal_3d": "3d"}
REAL = {
    "ifim_mednist_2d": Path("mednist6_64", "mednist_jpeg"),
    "ifim_hippocampus_3d": Path("hippo3d_dev", "nifti"),
}


def run_demo(output: Path, bundles: Path, data: Path | None) -> int:
    """Run the signal bundles on images made here, and the real ones on ``data`` when given.

    Args:
        output: folder for everything; one subfolder for each bundle.
        bundles: folder of the bundles, in a clone of the project.
        data: folder that holds ``mednist6_64/mednist_jpeg`` and ``hippo3d_dev/nifti``.

    Returns:
        Exit status: 0 when every bundle ran and every image has its row and volumes.

    Raises:
        FileNotFoundError: bundles or data are not there.
    """
    jobs: list[tuple[Path, Path]] = []
    for name, task in SIGNAL.items():
        images = output / name / "images"
        if not (images / "labels.csv").is_file():  # the last file to be written
            write_signal_images(signal_task(task), images, 12, 0)
        jobs.append((_bundle(bundles, name), images))
    if data is not None:
        for name, folder in REAL.items():
            if not (data / folder).is_dir():
                raise FileNotFoundError(
                    f"expected the images of {name} in {data / folder}, got no such folder; "
                    "leave out DATA to run on made images only"
                )
            jobs.append((_bundle(bundles, name), data / folder))
    reports = [_run(bundle, images, output / bundle.name) for bundle, images in jobs]
    print("\n" + "\n\n".join(text for text, _ in reports) + f"\n\n{RESEARCH_ONLY}")
    return 0 if all(complete for _, complete in reports) else 1


def _bundle(bundles: Path, name: str) -> Path:
    if not (bundles / name / "configs" / "inference.json").is_file():
        raise FileNotFoundError(
            f"expected the bundle {name} in {bundles}, got none; run this in a clone of the "
            "project, or point --bundles at one"
        )
    return bundles / name


def _report(results: Path, images: Path) -> Path:
    labels = images / "labels.csv"
    return write_report(results, most=12, labels=read_labels(labels) if labels.is_file() else None)


def _run(bundle: Path, images: Path, output: Path) -> tuple[str, bool]:
    """One bundle on one folder of images: report, and whether it is complete."""
    results = output / "results"
    command = [sys.executable, "-m", "monai.bundle", "run", "--workflow_type", "infer"]
    command += ["--config_file", str(bundle / "configs" / "inference.json")]
    command += ["--dataset_dir", str(images), "--output_dir", str(results)]
    command += ["--ifim_volumes", "['high','orth','sensitivity']"]
    print(f"\n$ {shlex.join(['python', *command[1:]])}", flush=True)
    start = time.perf_counter()
    status = subprocess.run(command, env=os.environ | {"PYTHONWARNINGS": "ignore"}).returncode
    seconds = time.perf_counter() - start
    lines = [f"{bundle.name}: {results} ({seconds:.0f} s)"]
    if not (results / "ifim.csv").is_file():
        return "\n".join([*lines, f"  exit status {status}, no table was written"]), False
    rows = read_table(results / "ifim.csv")
    good = sum(row["status"].startswith("ok") for row in rows)
    volumes = len(list(results.rglob("*_ifim_high.nii.gz")))
    lines += [
        f"  {results / 'predictions.csv'}: probabilities",
        f"  {results / 'ifim.csv'}: {good} of {len(rows)} images ok, exit status {status}",
        f"  {volumes} x *_ifim_high.nii.gz, *_ifim_orth.nii.gz, *_ifim_sensitivity.nii.gz",
        f"  {write_sheet(results, output / 'sheet.png')}: a picture of some",
        f"  {_report(results, images)}: look here first, in a browser",
    ]
    if bundle.name in SIGNAL:
        figures = agreement(
            load_bundle_classifier(bundle).network, signal_task(SIGNAL[bundle.name])
        )
        lines += [f"  {line}" for line in str(figures).splitlines()]
    return "\n".join(lines), status == 0 and 0 < good == volumes == len(rows)
