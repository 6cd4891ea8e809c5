"""One process, shards and Ray on the same images, and the journals of very long runs.

    python -m benchmarks.engines --output docs/performance/engines.json

Every run is a process of its own with one thread a worker. Its journals say when the first image
began and when the last one ended: what comes before is its start-up, what lies between gives the
images a second. Ray's cost of an image and of a block follow from runs with small and large blocks.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.harness import Cell, finish_options, option_parser, report, spread
from monai_ifim.data.run_folder.image_list import ImageList, write_list
from monai_ifim.data.run_folder.journal import Journal, journals, read_history
from monai_ifim.data.run_folder.merge import merge_runs
from monai_ifim.data.run_folder.record import write_record
from monai_ifim.experiments import signal_task, write_signal_images

ROOT = Path(__file__).parents[1]
LARGE = 10  # batches in a block, of one image each
BASE = "one process"
ONE_RAY, SMALL = f"Ray, blocks of {LARGE}", "Ray, blocks of 1"
# Processes and block of each kind of run; a block of 0 is none of Ray's.
KINDS = {
    BASE: (1, 0),
    "two shards at once": (2, 0),
    ONE_RAY: (1, LARGE),
    f"{ONE_RAY}, two processes": (2, LARGE),
    SMALL: (1, 1),
}


@dataclass(frozen=True)
class Run:
    """What the journals of a run tell.

    Attributes:
        start: seconds from the command to the first image.
        work: seconds from there to the end of the last image.
        whole: seconds of the command.
    """

    start: float
    work: float
    whole: float


def run(kind: str, images: Path, bundle: Path) -> Run:
    """One run.

    Returns:
        What its journals tell.

    Raises:
        RuntimeError: it failed.
    """
    processes, block = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out"
        words = [str(bundle), str(images), str(output), str(processes), str(block)]
        one = [sys.executable, "-m", "benchmarks.engines", "--child", *words]
        children = [one] if block or processes == 1 else [[*one, f"{i}/2"] for i in range(2)]
        began, clock = time.time(), time.monotonic()
        started = [
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for command in children
        ]
        errors = [child.communicate()[1] for child in started]
        whole = time.monotonic() - clock
        if any(child.returncode for child in started) or not (output / "ifim.csv").is_file():
            raise RuntimeError(f"no table from {kind}: {errors[0][-3000:]}")
        paths = journals(output)
        heads = [json.loads(path.read_text().split("\n", 1)[0])["started"] for path in paths]
        first = min(datetime.fromisoformat(head).timestamp() for head in heads)
        last = max(path.stat().st_mtime for path in paths)
        return Run(first - began, last - first, whole)


def child(words: Sequence[str]) -> None:
    """One process of a run."""
    from monai_ifim import run_on_ray
    from monai_ifim.runs import RunOptions, run_bundle

    bundle, images, output, processes, block, *shard = words
    options = RunOptions(device="cpu", batch_size=1, shard=shard[0] if shard else None)
    if int(block):
        summary = run_on_ray(
            bundle, images, output, options,
            processes=int(processes), block=int(block), progress=False,
        )  # fmt: skip
        assert summary.complete, summary
    else:
        assert run_bundle(bundle, images, output, options).complete


def write_journals(folder: Path, count: int, files: int = 8) -> None:
    """Journals as a run of so many images leaves them, without its volumes."""
    names = [f"/data/study/images/scan{i:07d}.nii.gz" for i in range(count)]
    write_record(folder, {"identity": {}, "run": "r", "state": "running", "tables": []})
    numbers = {"trace": 0.7395152986364094, "rank": 1, "eigenvalue_1": 0.7395152986364094}
    for k in range(files):
        journal = Journal(folder, "r", f"session {k}")
        for name in names[k::files]:
            row = {"file": name, "status": "ok", "predicted_class": "1", **numbers}
            volumes = {f"{Path(name).name[:-7]}_ifim_{part}.nii.gz": 120_000 for part in "ho"}
            line = {"row": row, "part": 0, "source": [131_424, 1795700061383792933]}
            journal.start([name])
            journal.add([line | {"volumes": volumes, "probabilities": [0.25, 0.75]}])
        journal.close()
    write_list(folder, ImageList(tuple(names)))


def look_back(folder: Path) -> dict[str, float]:
    """Seconds to read and to merge the journals of a folder, and the peak of this process."""
    result = {"before": _peak()}
    start = time.perf_counter()
    read_history(folder)
    result |= {"read": time.perf_counter() - start, "peak of reading": _peak()}
    start = time.perf_counter()
    merge_runs([folder], folder / "ifim.csv")
    return result | {"merge": time.perf_counter() - start, "peak": _peak()}


def _peak() -> float:
    """Megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def journal_row(count: int, repeats: int) -> list[Cell]:
    """One row of the table of journals; each round in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        write_journals(Path(folder), count)
        megabytes = sum(path.stat().st_size for path in journals(Path(folder))) / 2**20
        command = [sys.executable, "-m", "benchmarks.engines", "--journals", folder]
        rounds = [
            json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
            for _ in range(repeats)
        ]
    times = [spread([each[name] for each in rounds]) for name in ("read", "merge")]
    peaks = [
        spread([each[name] - each["before"] for each in rounds])
        for name in ("peak of reading", "peak")
    ]
    return [count, megabytes, *times, *peaks]


def costs(rounds: Mapping[str, Sequence[Run]], images: int) -> tuple[list[float], list[float]]:
    """Milliseconds of Ray for each image, and for each block, round by round."""
    of_image, of_block = [], []
    for one, large, small in zip(rounds[BASE], rounds[ONE_RAY], rounds[SMALL], strict=True):
        block = (small.work - large.work) / (images - -(-images // LARGE))
        of_block.append(1e3 * block)
        of_image.append(1e3 * ((small.work - one.work) / images - block))
    return of_image, of_block


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, or be one of the processes that are measured."""
    parser = option_parser(__doc__, repeats=3)
    parser.add_argument("--images", type=int, default=200, help="of each run")
    parser.add_argument("--lines", type=int, nargs="+", default=[10**5, 10**6])
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--journals", type=Path, help=argparse.SUPPRESS)
    options = finish_options(parser, argv)
    if options.child:
        child(options.child)
        return
    if options.journals:
        print(json.dumps(look_back(options.journals)))
        return
    dimensions = "3d"
    if options.quick:
        options.images, options.repeats, options.lines, dimensions = 4, 1, [200], "2d"
    bundle = ROOT / "bundles" / f"ifim_signal_{dimensions}"
    rounds: dict[str, list[Run]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        write_signal_images(signal_task(dimensions), images, options.images, 0)
        for number in range(options.repeats):
            for kind in KINDS if number % 2 == 0 else reversed(KINDS):
                rounds[kind].append(run(kind, images, bundle))
    rows: list[list[Cell]] = [
        [
            kind,
            KINDS[kind][0],
            spread([options.images / each.work for each in all_]),
            spread([one.work / each.work for one, each in zip(rounds[BASE], all_, strict=True)]),
            spread([each.start for each in all_]),
            spread([each.whole for each in all_]),
        ]
        for kind, all_ in rounds.items()
    ]
    of_image, of_block = costs(rounds, options.images)
    gains = [f"{rows[i][3][0]:.2f} times with {rows[i][0]}" for i in (1, 3)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    report(
        options,
        "engines",
        title="Shards and Ray",
        claim=f"Two processes on a machine with {cores} cores, images a second after their "
        f"start-up: {' and '.join(gains)}.",
        columns=["run", "processes", "images/s", "ratio", "start-up, s", "whole command, s"],
        rows=rows,
        notes=[
            f"`{bundle.name}` on {options.images} images, one a batch, one thread a process, "
            f"{options.repeats} rounds; every run in new processes.",
            "Start-up: from the command to the first image. Images a second: from there to the end "
            "of the last image, by the journals; a second process that comes later counts.",
            "Ratio: of images a second to those of one process in the same round, the median of "
            "all rounds; not the ratio of the two medians of images a second.",
        ],
        tables=[
            {
                "heading": "What Ray costs, with one process",
                "columns": ["for each", "ms"],
                "rows": [["image", spread(of_image)], ["block", spread(of_block)]],
            },
            {
                "heading": "Journals of long runs (8 files): reading what is done, and the table "
                "of all",
                "columns": [
                    "images",
                    "MB",
                    "reading, s",
                    "merge, s",
                    "memory of reading, MB",
                    "memory of both, MB",
                ],
                "rows": [journal_row(count, options.repeats) for count in options.lines],
            },
        ],
        packages=["ray"],
    )


if __name__ == "__main__":
    main()
