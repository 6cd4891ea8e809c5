"""What disturbed runs lose: kills, signals, full disks, dead workers, two runs at once.

    python -m benchmarks.reliability     # all, docs/reliability/*.json; about 20 minutes
    python -m benchmarks.reliability --only kills signals --times 2 --output /tmp/reliability

Each case disturbs real runs of ``bundles/ifim_signal_2d`` on images made here, lets them go on with
``--ifim_resume true``, and compares every byte of tables and volumes with an undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import reliability_runs as runs
from benchmarks.reliability_runs import ROOT, Child, arguments, content, record

RESUME = ("--ifim_resume", "true")
IMAGES = 40


class Field:
    """A folder with images, an undisturbed run of them, and places for disturbed ones.

    Args:
        folder: empty.
        seed: of the random moments.
    """

    def __init__(self, folder: Path, seed: int = 0):
        self.folder, self.random = folder, random.Random(seed)
        self.images, self.whole = folder / "images", folder / "whole"
        make_images(self.images, IMAGES)
        first = Child(arguments(self.images, self.whole), folder / "whole.log")
        if first.wait() != 0:
            raise RuntimeError(first.text())
        self.seconds = time.monotonic() - first.began
        self.expected = content(self.whole)
        self.number = 0

    def place(self) -> Path:
        """A new output folder."""
        self.number += 1
        return self.folder / f"run{self.number}"

    def run(self, output: Path, *options: str, **more: Any) -> Child:
        """Begin a run."""
        log = output.with_name(f"{output.name}-{time.monotonic_ns()}.log")
        return Child(arguments(self.images, output, *options, **more), log)

    def resumed(self, output: Path, *options: str, **more: Any) -> dict:
        """Go on to the end, and what is then different from the undisturbed run."""
        before = done_images(output)
        child = self.run(output, *RESUME, *options, **more)
        status = child.wait()
        found = content(output)
        lost = sorted(set(self.expected) - set(found))
        other = sorted(n for n in set(found) & set(self.expected) if found[n] != self.expected[n])
        return {
            "status": status,
            "kept": before,
            "begun_again": runs.begun_in_journals(output) - IMAGES,
            "lost": lost,
            "different": other,
            "left_over": sorted(set(found) - set(self.expected)),
        }


def make_images(folder: Path, count: int) -> None:
    """In a process of its own, because the parent must not compute before it forks."""
    child = os.fork()
    if child == 0:
        from monai_ifim.experiments import signal_task, write_signal_images

        write_signal_images(signal_task("2d"), folder, count, 0)
        os._exit(0)
    os.waitpid(child, 0)


def done_images(output: Path) -> int:
    """Images whose lines are whole."""
    from monai_ifim.data.run_folder.journal import read_history

    return len(read_history(output).lines)


def kills(field: Field, times: int) -> list[dict]:
    """SIGKILL at a random moment, in every third run a second time after the resume."""
    found = []
    for trial in range(times):
        output, moments = field.place(), []
        for again in range(2 if trial % 3 == 2 else 1):
            child = field.run(output, *(RESUME if again else ()))
            moment = field.random.uniform(0.3, 1) * field.seconds
            time.sleep(moment)
            child.kill()
            moments.append({"seconds": round(moment, 3), "status": child.wait()})
        state = record(output).get("state", "not begun")
        trial_of = {"moments": moments, "state": state, **field.resumed(output)}
        # One image at a time is in work.
        trial_of["kept_promises"] = {"one image again": trial_of["begun_again"] <= len(moments)}
        found.append(trial_of)
        shutil.rmtree(output)
    return found


def signals(field: Field, times: int) -> list[dict]:
    """SIGINT and SIGTERM in turn, once a random number of images is done."""
    found = []
    for trial in range(2 * times):
        number = (signal.SIGINT, signal.SIGTERM)[trial % 2]
        output = field.place()
        child = field.run(output)
        runs.wait_for_rows(output, field.random.randint(1, IMAGES - 3), child)
        child.kill(number)
        status, text = child.wait(), child.text()
        last = (output / "ifim.csv").read_text().splitlines()[-1]
        found.append(
            {
                "signal": signal.Signals(number).name,
                "exit": status,
                "kept_promises": {
                    "status of the signal": status == 128 + number,
                    "no traceback": "Traceback" not in text,
                    "run.json says so": record(output)["state"] == "interrupted",
                    "the table says so": last.startswith("run,") and "the run ended here" in last,
                },
                **field.resumed(output),
            }
        )
        shutil.rmtree(output)
    return found


def full_disk(field: Field, times: int) -> list[dict]:
    """A small tmpfs that is full at a random point, and larger afterwards."""
    found, disk = [], field.folder / "disk"
    disk.mkdir(exist_ok=True)
    for _ in range(times):
        size = field.random.randint(40, 1200)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)]
        subprocess.run(mount, check=True)
        try:
            output = disk / "out"
            child = Child(arguments(field.images, output), field.folder / "disk.log")
            status, text = child.wait(), child.text()
            remount = ["mount", "-o", "remount,size=64m", str(disk)]
            subprocess.run(remount, check=True)
            seen = {"kilobytes": size, "exit": status}
            why = "full disk" in text or "No space left" in text
            seen["kept_promises"] = {"stops": status != 0, "says why": why}
            log = field.folder / f"disk-{time.monotonic_ns()}.log"
            kept = done_images(output)
            again = Child(arguments(field.images, output, *RESUME), log)
            seen |= {"status": again.wait(), "kept": kept}
            result = content(output)
            seen["lost"] = sorted(set(field.expected) - set(result))
            seen["different"] = sorted(
                n for n in field.expected if n in result and result[n] != field.expected[n]
            )
            seen["left_over"] = sorted(set(result) - set(field.expected))
            found.append(seen)
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    return found


def workers(field: Field, times: int) -> list[dict]:
    """A process that loads images is killed."""
    found = []
    options = ("--dataloader::num_workers", "2")
    for _ in range(times):
        output = field.place()
        child = field.run(output, *options)
        runs.wait_for_rows(output, field.random.randint(1, IMAGES // 2), child)
        inside = children_of(child.pid)
        if inside:
            os.kill(field.random.choice(inside), signal.SIGKILL)
        status = child.wait()
        result = content(output)
        found.append(
            {
                "kept_promises": {"a process was killed": bool(inside)},
                "status": status,
                "lost": sorted(set(field.expected) - set(result)),
                "different": [n for n in field.expected if result.get(n) != field.expected[n]],
            }
        )
        shutil.rmtree(output)
    return found


def two_runs(field: Field, times: int) -> list[dict]:
    """A second run into the folder of a first one that is at work."""
    found = []
    for _ in range(times):
        output = field.place()
        child = field.run(output)
        runs.wait_for_rows(output, 2, child)
        os.kill(child.pid, signal.SIGSTOP)  # so that the first is surely still at work
        second = field.run(output, *RESUME)
        refused = second.wait()
        os.kill(child.pid, signal.SIGCONT)
        status = child.wait()
        result = content(output)
        found.append(
            {
                "kept_promises": {
                    "refused": refused != 0,
                    "says why": "which is writing to it" in second.text(),
                },
                "status": status,
                "lost": sorted(set(field.expected) - set(result)),
                "different": [n for n in field.expected if result.get(n) != field.expected[n]],
            }
        )
        shutil.rmtree(output)
    return found


def vanished(field: Field, times: int) -> list[dict]:
    """A file that vanishes during the run; then it is there again."""
    found = []
    for _ in range(times):
        output = field.place()
        gone = sorted(field.images.glob("*.nii.gz"))[-field.random.randint(1, 5)]
        times_before, away = gone.stat(), field.folder / "away"
        child = field.run(output)
        runs.wait_for_rows(output, 2, child)
        gone.rename(away)
        status = child.wait()
        rows = (output / "ifim.csv").read_text().splitlines()
        failed = [row for row in rows if "failed:" in row]
        away.rename(gone)
        os.utime(gone, ns=(times_before.st_atime_ns, times_before.st_mtime_ns))
        promises = {
            "status is not 0": status != 0,
            "one row": len(failed) == 1 and gone.name in failed[0],
        }
        found.append({"kept_promises": promises, **field.resumed(output)})
        shutil.rmtree(output)
    return found


def raising(field: Field, times: int) -> list[dict]:
    """A network that raises for one image of a batch of four."""
    found = []
    config = field.folder / "raising.json"
    for _ in range(times):
        index = field.random.randrange(IMAGES)
        target = "benchmarks.reliability_runs.raising"
        network = {"_target_": target, "network": "$@network_def.to(@device)", "index": index}
        config.write_text(json.dumps({"network": network}))
        output = field.place()
        child = field.run(output, "--batch_size", "4", configs=(config,))
        status = child.wait()
        rows = (output / "ifim.csv").read_text().splitlines()[1:]
        failed = [i for i, row in enumerate(rows) if "failed:" in row]
        others = {n for n in field.expected if f"_{index:04d}_" not in n}
        found.append(
            {
                "kept_promises": {
                    "status is not 0": status != 0,
                    "that image alone failed": failed == [index] and len(rows) == IMAGES,
                },
                # In batches of four the last digits are others: what counts is what is there.
                "lost": sorted(others - set(content(output))),
            }
        )
        shutil.rmtree(output)
    return found


def torchrun(field: Field, times: int) -> list[dict]:
    """SIGKILL of one of two ranks; torchrun ends the other, and the whole is resumed."""
    overlay = ROOT / "configs" / "ifim_multi_process.yaml"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    found = []
    for _ in range(times):
        output = field.place()
        words = ["-m", "monai.bundle", *arguments(field.images, output, configs=(overlay,))]
        log = output.with_suffix(".log").open("w")
        process = subprocess.Popen(
            [sys.executable, *launcher, *words], stdout=log, stderr=log, env=environment
        )
        target, end = field.random.randint(2, IMAGES - 6), time.monotonic() + 200
        while runs.rows_in_journals(output) < target and time.monotonic() < end:
            time.sleep(0.002)
        ranks = [pid for pid in children_of(process.pid) if "monai.bundle" in command_of(pid)]
        os.kill(field.random.choice(ranks), signal.SIGKILL)
        status, kept = process.wait(timeout=200), done_images(output)
        again = subprocess.run(
            [sys.executable, *launcher, *words, *RESUME], stdout=log, stderr=log, env=environment
        )
        result = content(output)
        found.append(
            {
                "kept_promises": {"status is not 0": status != 0},
                "kept": kept,
                "status": again.returncode,
                "begun_again": runs.begun_in_journals(output) - IMAGES,
                "lost": sorted(set(field.expected) - set(result)),
                "different": [n for n in field.expected if result.get(n) != field.expected[n]],
            }
        )
        shutil.rmtree(output)
    return found


def is_good(trial: dict) -> bool:
    """Whether nothing was lost, the end was reached, and all was as it is promised."""
    lost = trial["lost"] or trial.get("different") or trial.get("left_over")
    return not lost and not trial.get("status") and all(trial.get("kept_promises", {}).values())


def children_of(pid: int) -> list[int]:
    """Processes that a process has begun."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(number) for number in path.read_text().split()] if path.exists() else []


def command_of(pid: int) -> str:
    """Command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


CASES: dict[str, tuple[Callable[[Field, int], list[dict]], int]] = {
    "kills": (kills, 50),
    "signals": (signals, 20),
    "full_disk": (full_disk, 10),
    "workers": (workers, 10),
    "two_runs": (two_runs, 3),
    "vanished": (vanished, 5),
    "raising": (raising, 5),
    "torchrun": (torchrun, 10),
}


def main() -> int:
    """Run the cases; the status is 0 where nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--times", type=int, help="in the place of each case's own number")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "reliability")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    runs.warm_up()
    lost = 0
    with tempfile.TemporaryDirectory() as folder:
        field = Field(Path(folder), options.seed)
        for name in options.only:
            function, count = CASES[name]
            began = time.monotonic()
            trials = function(field, options.times or count)
            bad = [trial for trial in trials if not is_good(trial)]
            lost += len(bad)
            result = {
                "case": name,
                "what": (function.__doc__ or "").strip(),
                "command": f"python -m benchmarks.reliability --only {name}",
                "images": IMAGES,
                "trials": len(trials),
                "trials_that_lost_something": len(bad),
                "seconds": round(time.monotonic() - began, 1),
                "machine": f"{platform.system()}, Python {platform.python_version()}",
                "details": trials,
            }
            text = json.dumps(result, indent=1)
            options.output.mkdir(parents=True, exist_ok=True)
            (options.output / f"{name}.json").write_text(text + "\n")
            print(f"{name}: {len(trials)} times, {len(bad)} lost something", flush=True)
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
