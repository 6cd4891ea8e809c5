"""Runs of a bundle as child processes, to be disturbed.

Most of the time of a short run goes into imports. The parent imports once and forks a child for
each run: a process of its own, which runs MONAI's command line as ``python -m monai.bundle`` does.
"""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "bundles" / "ifim_signal_2d" / "configs" / "inference.json"


def warm_up() -> None:
    """Import what a run imports, and compute nothing: threads do not survive a fork."""
    warnings.simplefilter("ignore")
    import monai.bundle.scripts  # noqa: F401
    import monai.transforms  # noqa: F401

    import monai_ifim as mi

    for name in mi.__all__:
        getattr(mi, name)
    import torch

    torch.set_num_threads(1)


def arguments(images: Path, output: Path, *options: str, configs: tuple[Path, ...] = ()) -> list:
    """Command line of an inference run, without Python."""
    files = [str(path) for path in (BUNDLE, *configs)]
    return [
        *("run", "--workflow_type", "infer", "--config_file", str(files)),
        *("--dataset_dir", str(images), "--output_dir", str(output), *options),
    ]


class Child:
    """A forked process that runs the bundle."""

    def __init__(self, words: list[str], log: Path, prepare: Callable[[], None] | None = None):
        self.log = log
        self.began = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(_run(words, log, prepare))

    def wait(self, timeout: float = 300) -> int:
        """Status of the process, negative for a signal."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        self.kill()
        raise TimeoutError(f"still at work after {timeout} s; see {self.log}")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")


def _run(words: list[str], log: Path, prepare: Callable[[], None] | None) -> int:
    """In the child: the command, and its status."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = 0
    try:
        if prepare is not None:
            prepare()
        sys.argv = ["monai.bundle", *words]
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=False)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def content(output: Path) -> dict[str, str]:
    """Digest of every result in a folder; what only tells of the run is left out."""
    files = [path for path in output.rglob("*") if path.is_file()]
    kept = [p for p in files if ".ifim" not in p.parts and p.name != "run.json"]
    return {
        str(p.relative_to(output)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(kept)
    }


def rows_in_journals(output: Path) -> int:
    """Lines of images that are done, in all journals of a folder."""
    paths = (output / ".ifim").glob("journal-*.jsonl")
    return sum(path.read_bytes().count(b'{"row"') for path in paths)


def begun_in_journals(output: Path) -> int:
    """How often the work on an image was begun, in all journals of a folder; batches of one."""
    paths = (output / ".ifim").glob("journal-*.jsonl")
    return sum(path.read_bytes().count(b'{"start"') for path in paths)


def record(output: Path) -> dict:
    """Content of ``run.json``; empty where there is none."""
    path = output / "run.json"
    return json.loads(path.read_text()) if path.exists() else {}


def wait_for_rows(output: Path, count: int, child: Child, timeout: float = 120) -> None:
    """Until a run has journalled so many images."""
    end = time.monotonic() + timeout
    while rows_in_journals(output) < count and time.monotonic() < end:
        time.sleep(0.002)
        if not os.path.exists(f"/proc/{child.pid}"):
            return


def raising(network: Any, index: int) -> Any:
    """Make a network raise for one image of the list, wherever it is in a batch."""
    import nibabel as nib
    import torch

    images = Path(sys.argv[sys.argv.index("--dataset_dir") + 1])
    file = sorted(images.glob("*.nii.gz"))[index]
    first = float(nib.load(file).get_fdata().flat[0])

    def check(module: Any, inputs: Any) -> None:
        values = inputs[0].detach().as_subclass(torch.Tensor).flatten(1)[:, 0]
        if torch.isclose(values, torch.tensor(first, dtype=values.dtype)).any():
            raise ArithmeticError("on purpose, for one image")

    network.register_forward_pre_hook(check)
    return network
