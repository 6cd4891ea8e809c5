"""All benchmarks, each in a process of its own, and then the page.

python -m benchmarks                       # docs/performance/*.json and docs/performance.md
python -m benchmarks --device cuda         # docs/performance/*_cuda.json, on a GPU
python -m benchmarks --all                 # with those that take long
python -m benchmarks --only lower_bound peers --quick --folder /tmp/numbers
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import page

# By device: what is measured.
BOTH = ("lower_bound", "peers", "epoch", "pooling", "large_k", "segmentation")
CUDA = ("throughput", *BOTH)
# With --all only.
LONG_BOTH = ("volume", "ideas")
LONG_CPU = (
    "inference_run",
    "pictures",
    "profile",
    "scaling",
    "engines",
    "volumes",
    *LONG_BOTH,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for.

    Returns:
        0, or 1 when a benchmark failed; the others have their results nevertheless.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--all", action="store_true", help=f"also {', '.join(LONG_CPU)}")
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="smoke test; writes no page")
    parser.add_argument("--folder", type=Path, default=Path("docs/performance"))
    options = parser.parse_args(argv)
    cuda = options.device == "cuda"
    suffix, names, longer = ("_cuda", CUDA, LONG_BOTH) if cuda else ("", BOTH, LONG_CPU)
    failed = []
    for name in options.only or (*names, *(longer if options.all else ())):
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        command += ["--output", str(options.folder / f"{name}{suffix}.json")]
        command += ["--device", "cuda"] if suffix else []
        command += ["--quick"] if options.quick else []
        start = time.perf_counter()
        status = subprocess.run(command, check=False).returncode
        print(f"{name}: {time.perf_counter() - start:.0f} s, status {status}\n", flush=True)
        if status:
            failed.append(name)
    if not options.quick:
        page.main([str(options.folder), f"{options.folder}.md"])
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
