"""A folder of pictures through both commands, with an earlier state of the project beside it.

git worktree add ../before COMMIT
python -m benchmarks.pictures --before ../before --output docs/performance/pictures.json
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.harness import Cell, Times, finish_options, interleave, option_parser, report
from benchmarks.inference_run import write_noise

HERE = Path(__file__).parents[1]
BUNDLE = Path("bundles") / "ifim_mednist_2d"
COMMANDS = ("monai-ifim run", "python -m monai.bundle run")


def run(root: Path, command: str, data: Path, spent: list[float]) -> None:
    """One whole process, of the package in ``root``; its processor time goes to ``spent``.

    Raises:
        RuntimeError: it failed.
    """
    bundle = root / BUNDLE
    with tempfile.TemporaryDirectory() as made:
        output = Path(made) / "out"
        words = ["-m", "monai_ifim", "run", "--bundle", str(bundle), "--input", str(data)]
        words += ["--output", str(output)]
        if command != COMMANDS[0]:
            words = ["-m", "monai.bundle", "run", "--workflow_type", "infer"]
            words += ["--config_file", str(bundle / "configs" / "inference.json")]
            words += ["--dataset_dir", str(data), "--output_dir", str(output)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if done.returncode or not (output / "ifim.csv").is_file():
            raise RuntimeError(f"no ifim.csv from {words}:\n{done.stderr[-2000:]}")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = option_parser(__doc__, repeats=3, seconds=400)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier state")
    parser.add_argument("--images", type=int, default=1000)
    options = finish_options(parser, argv)
    count = 2 if options.quick else options.images
    states = {"now": HERE} | ({"before": options.before.resolve()} if options.before else {})
    then = f" Before: commit {_commit(options.before)}." if options.before else ""
    with tempfile.TemporaryDirectory() as made:
        write_noise(Path(made), count)
        functions: dict[str, Callable[[], object]] = {}
        spent: dict[str, list[float]] = {}
        for command in COMMANDS:
            for state, root in states.items():
                name = f"`{command}`, {state}"
                spent[name] = []
                functions[name] = partial(run, root, command, Path(made), spent[name])
        times = interleave(functions, options)
    rounds = {name: spent[name][-len(seconds) :] for name, seconds in times.rounds.items()}
    processor = Times(rounds, times.failures)
    report(
        options,
        "pictures",
        title="A folder of pictures",
        claim=_claim(times, count),
        columns=["command", "s", "ratio to now", "processor time, s", "ratio of these"],
        rows=[
            [
                name,
                *(
                    cell
                    for t in (times, processor)
                    for cell in (t.spread(name), t.ratio(name, name.replace("before", "now")))
                ),
            ]
            for name in functions
        ],
        notes=[
            f"{count} pictures of 64×64 with noise (PNG), `{BUNDLE}`, six classes, both volumes; "
            f"whole processes with their start, which take turns.{then}",
        ],
        packages=("isal", "nibabel", "pillow"),
    )


def _commit(root: Path) -> str:
    words = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def _claim(times: Times, count: int) -> str:
    name = f"`{COMMANDS[0]}`, now"
    now: Cell = times.spread(name)
    seconds = f"{now[0]:.3g} s" if isinstance(now, list) else str(now)
    ratio = times.ratio(name.replace("now", "before"), name)
    earlier = f", {ratio[0]:.2f} times less than before" if isinstance(ratio, list) else ""
    return f"{count} pictures and their volumes take {seconds}{earlier}."


if __name__ == "__main__":
    main()
