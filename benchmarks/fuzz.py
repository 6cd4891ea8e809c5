"""Damaged and hostile NIfTI and DICOM files, through loading, handler and saving.

    python -m benchmarks.fuzz                    # 10,000 files; docs/reliability/fuzz.json
    python -m benchmarks.fuzz --files 200 --output /tmp/reliability

The files of pydicom's and nibabel's tests and images of this project are damaged by chance
(``fuzz_files.py``) and go through a real evaluator in child processes under a memory limit. Wanted:
no child that crashes, no file that takes longer than a limit, no memory beyond the bound, and one
row for each file.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.fuzz_files import MUTATIONS, mutated, originals

ROOT = Path(__file__).parents[1]
MAX_VOXELS = 2**20  # an image of so many, with its gradients and volumes, takes about 230 MB
BOUND = 512  # MB of resident memory that a child may take beyond what it has after the imports
ASKED = 4096  # MB of address space, of which much is never touched; an allocation beyond it fails
SECONDS = 60  # of one file at the most
CHUNK = 500  # files of one child


def main(argv: Sequence[str] | None = None) -> int:
    """Make the files, run the children, write the counts; the status is 0 without a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "reliability")
    parser.add_argument("--keep", type=Path, help="folder for files that are at fault")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        child(options.child)
        return 0
    result = fuzz(options.files, options.seed, options.keep)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "fuzz.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return int(bool(result["faults"]))


def fuzz(count: int, seed: int, keep: Path | None = None) -> dict:
    """Run so many files.

    Args:
        count: of files.
        seed: of the damage.
        keep: folder for the files that are at fault.

    Returns:
        Counts, and every fault with the file that has it.
    """
    began = time.monotonic()
    total: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    faults: list[dict] = []
    peak = slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        subprocess.run(
            [
                sys.executable,
                "-m",
                "monai_ifim",
                "signal-images",
                "3d",
                str(top / "made"),
                "--count",
                "2",
            ],
            check=True,
            capture_output=True,
        )
        sources = originals(top / "made")
        for number, first in enumerate(range(0, count, CHUNK)):
            dice = random.Random(f"{seed} {number}")
            work = top / f"chunk{number}"
            files = list(damaged(sources, work / "in", min(CHUNK, count - first), dice))
            kinds.update(path.name.split("_")[1] for path in files)
            while files:
                seen = watched(work, files)
                total.update(seen["rows"])
                reasons.update(seen["reasons"])
                peak, slowest = max(peak, seen["megabytes"]), max(slowest, seen["slowest"])
                for fault in seen["faults"]:
                    faults.append(fault)
                    if keep and fault["file"]:
                        keep.mkdir(parents=True, exist_ok=True)
                        (keep / Path(fault["file"]).name).write_bytes(
                            Path(fault["file"]).read_bytes()
                        )
                files = seen["left"]
            subprocess.run(["rm", "-r", str(work)], check=True)
    return {
        "case": "fuzz",
        "command": "python -m benchmarks.fuzz"
        + (f" --files {count}" if count != 10_000 else "")
        + (f" --seed {seed}" if seed else ""),
        "files": count,
        "originals": len(sources),
        "mutations": dict(sorted(kinds.items())),
        "rows": dict(sorted(total.items())),
        "faults": [{**fault, "file": Path(fault["file"]).name} for fault in faults],
        "megabytes_at_most": round(peak),
        "megabytes_allowed": BOUND,
        "megabytes_of_address_space": ASKED,
        "max_voxels": MAX_VOXELS,
        "seconds_of_the_slowest": round(slowest, 2),
        "seconds_allowed": SECONDS,
        "seconds": round(time.monotonic() - began),
        "reasons": dict(reasons.most_common(12)),
    }


def damaged(
    sources: dict[str, bytes], folder: Path, count: int, dice: random.Random
) -> Iterator[Path]:
    """Write damaged files.

    Args:
        sources: originals by name.
        folder: for the files.
        count: of them.
        dice: decides.

    Yields:
        Their paths.
    """
    folder.mkdir(parents=True)
    names = sorted(sources)
    for index in range(count):
        name, how = dice.choice(names), dice.choice(list(MUTATIONS))
        path = folder / f"{index:05d}_{how}_{name}"
        path.write_bytes(mutated(name, sources[name], how, dice))
        yield path


def watched(work: Path, files: list[Path]) -> dict:
    """Run a child on files until it is done, dead, or at one file for too long.

    Args:
        work: folder for what passes between the two.
        files: to run.

    Returns:
        Counts of the rows, faults, and the files that are left to be run.

    Raises:
        RuntimeError: the child ended before its first file.
    """
    run = Path(tempfile.mkdtemp(dir=work))
    (run / "files.json").write_text(json.dumps(list(map(str, files))))
    started = run / "started"
    started.touch()
    command = [sys.executable, "-X", "faulthandler", "-m", "benchmarks.fuzz", "--child", str(run)]
    last, since, slowest = 0, time.monotonic(), 0.0
    with (run / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        hangs = False
        while process.poll() is None and not hangs:
            time.sleep(0.02)
            now, done = time.monotonic(), started.stat().st_size
            if done != last:
                last, since = done, now
            elif done:
                slowest = max(slowest, now - since)
            hangs = now - since > (SECONDS if done else 10 * SECONDS)
        if hangs:
            process.kill()
        status = process.wait()
    at = started.stat().st_size
    tail = (run / "log").read_text(errors="replace")[-1500:]
    if at == 0:
        raise RuntimeError(f"the child did not begin: {tail}")
    # What has its row is judged even where the child then died.
    result = run / "result.json"
    if status == 0 and result.exists():
        return {**json.loads(result.read_text()), "slowest": slowest, "left": []}
    what = f"longer than {SECONDS} s" if hangs else f"the process ended with {status}"
    fault = {"file": str(files[at - 1]), "what": what, "log": tail}
    rest = [*files[: at - 1], *files[at:]]
    nothing = {"rows": {}, "reasons": {}, "megabytes": 0.0, "slowest": slowest}
    return {**nothing, "faults": [fault], "left": rest}


class Noted:
    """A sampler that notes in a file, byte by byte, which image comes next.

    Attributes:
        peaks: MB of resident memory at the most while each image was in work.
    """

    def __init__(self, count: int, path: Path):
        self.count, self.path = count, path
        self.peaks: list[float] = []

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        with self.path.open("ab", buffering=0) as file:
            for index in range(self.count):
                file.write(b".")
                Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
                yield index
                self.peaks.append(peak())


def peak() -> float:
    """MB of resident memory at the most, since it was last begun anew."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def child(run: Path) -> None:
    """Run the files under the memory limit, and write what came of them."""
    from benchmarks.small_runs import evaluator, quietly, resident
    from monai_ifim.data.tables import read_table

    quietly()
    logging.disable(logging.CRITICAL)
    files = json.loads((run / "files.json").read_text())
    warm_up(run, files)
    before = resident()
    limit = int(1e6 * ASKED) + virtual()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    noted = Noted(len(files), run / "started")
    evaluator(files, run / "out", MAX_VOXELS, sampler=noted).run()
    peaks = [each - before for each in noted.peaks]
    rows = read_table(run / "out" / "ifim.csv")
    counts = Counter(row["file"] for row in rows)
    faults = [
        {"file": file, "what": f"{counts[file]} rows", "log": ""}
        for file in files
        if counts[file] != 1
    ]
    faults += [
        {"file": row["file"], "what": row["status"], "log": "asked for more than the bound"}
        for row in rows
        if any(word in row["status"] for word in ("MemoryError", "allocate"))
    ]
    faults += [
        {"file": file, "what": f"{each:.0f} MB", "log": "beyond the bound"}
        for file, each in zip(files, peaks, strict=False)
        if each > BOUND
    ]
    statuses = [row["status"] for row in rows]
    reasons = Counter(status.split("got")[0][:60] for status in statuses if status != "ok")
    result = {
        "rows": {
            "a result": statuses.count("ok"),
            "a reason": len(statuses) - statuses.count("ok"),
        },
        "reasons": reasons,
        "megabytes": max(0.0, *peaks),
        "faults": faults,
    }
    (run / "result.json").write_text(json.dumps(result))


def warm_up(run: Path, files: list[str]) -> None:
    """Import every reader, by a run of a few files: what they map is not the images' memory."""
    import highdicom.image  # noqa: F401
    import itk  # noqa: F401
    import matplotlib  # noqa: F401
    import pydicom.pixels  # noqa: F401

    from benchmarks.small_runs import evaluator

    shipped = [str(run / name) for name in ("warm.nii.gz", "warm.dcm")]
    by_suffix = {Path(file).suffix: file for file in files}
    for path, suffix in zip(shipped, (".gz", ".dcm"), strict=True):
        if suffix in by_suffix:
            Path(path).write_bytes(Path(by_suffix[suffix]).read_bytes())
    evaluator([path for path in shipped if Path(path).exists()], run / "warm").run()


def virtual() -> int:
    """Bytes of address space of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main())
