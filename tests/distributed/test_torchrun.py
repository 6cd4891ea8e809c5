"""torchrun, and processes started by hand: the rows of one process, and one end for all.

Run as a script, this file is what each of those processes does.
"""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from monai.data import DistributedSampler
from monai.engines import SupervisedEvaluator
from torch import nn

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.scans import dataset, write_scans
from monai_ifim import distributed as ranks
from monai_ifim.experiments import signal_task, write_signal_images

# MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

ROOT = Path(__file__).parents[2]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
BROKEN = "the network of one rank broke on purpose"


class Breaking(nn.Module):
    """A network that fails at its second batch on rank 1, or takes the process with it.

    Rank 0 is in its second batch then, with a third to come.
    """

    def __init__(self, how, folder):
        super().__init__()
        self.body, self.how, self.calls = smooth_network(3), how, 0
        self.signal = folder / "rank 0 is in its second batch"

    def forward(self, x):
        self.calls += 1
        if self.calls == 2 and dist.get_rank() == 0:
            self.signal.touch()
            time.sleep(1.5)  # it looks at the others once a second
        if self.calls == 2 and dist.get_rank() == 1:
            while not self.signal.exists():
                time.sleep(0.02)
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ArithmeticError(BROKEN)
        return self.body(x)


def evaluate(files, folder, network):
    data = dataset(files)
    sampler = None
    if dist.is_initialized():
        sampler = DistributedSampler(data, even_divisible=False, shuffle=False)
    SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=mi.FaultTolerantDataLoader(data, batch_size=1, sampler=sampler),
        network=network,
        inferer=mi.IFIMInferer(),
        key_val_metric={"trace": mi.SpectrumMetric("trace")},
        val_handlers=[mi.IFIMHandler(output_dir=folder)],
    ).run()


def work(folder, how):
    """All cases in one pair of processes, because starting them is what takes the time."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    (folder / f"pid{dist.get_rank()}").write_text(str(os.getpid()))
    files = files_of(folder)
    if how == "raises":
        evaluate(files, folder / "replica", smooth_network(3))
        evaluate(files, folder / "ddp", nn.parallel.DistributedDataParallel(smooth_network(3)))
        # More than PyTorch's store takes in one piece.
        parts = ranks.Ranks("pieces").leave([b"x" * (9 << 20), dist.get_rank()], "a test")
        if parts is not None:
            text = str({rank: (len(part[0]), part[1]) for rank, part in sorted(parts.items())})
            (folder / "pieces").write_text(text)
            ranks.Ranks("pieces").saved()
    if how == "killed":
        ranks.PATIENCE = ranks.GRACE = 2.0
    evaluate(files, folder / "failed", Breaking(how, folder))


def files_of(folder):
    return [str(folder / "scans" / f"scan{i}.nii.gz") for i in range(5)]


def table(folder):
    with (folder / "ifim.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def environment(**more):
    helpers = {"PYTHONPATH": str(ROOT / "tests")}
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | helpers | more


def torchrun(arguments, folder):
    return subprocess.run(
        [sys.executable, *TORCHRUN, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )


def by_hand(folder, how):
    """Two processes without a launcher that watches them, as under SLURM's srun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(2):
        more = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        more |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        with (folder / f"stderr{rank}").open("w") as stderr:
            command = [sys.executable, __file__, str(folder), how]
            processes.append(subprocess.Popen(command, env=environment(**more), stderr=stderr))
    try:
        codes = [process.wait(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return codes, [(folder / f"stderr{rank}").read_text() for rank in range(2)]


def assert_nobody_is_left(folder):
    for rank in range(2):
        with pytest.raises(ProcessLookupError):
            os.kill(int((folder / f"pid{rank}").read_text()), 0)


def assert_table_of_the_failure(rows, folder):
    """The rows of both ranks up to the failure; no image that was not done looks done."""
    assert [row["file"] for row in rows] == [*files_of(folder), "rank 1"]
    status = [row["status"] for row in rows]
    assert status.pop() == f"failed: the run ended here, ArithmeticError: {BROKEN}"
    # Rank 1 has the scans 1 and 3, rank 0 the others.
    assert status[:3] == ["ok"] * 3
    assert status[3] == f"failed: the run ended here, ArithmeticError: {BROKEN}"
    assert status[4].startswith("failed: the run ended here, RuntimeError: expected every rank")
    assert "error on rank 1" in status[4]


# --- torchrun -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torchrun")
    write_scans(folder / "scans", 3, count=5)
    start = time.monotonic()
    done = torchrun([__file__, str(folder), "raises"], folder)
    return folder, done, time.monotonic() - start


@pytest.mark.parametrize("network", ["replica", "ddp"])
def test_two_processes_write_the_table_of_one(launched, tmp_path, network):
    folder, done, _ = launched
    assert (folder / network / "ifim.csv").is_file(), done.stderr
    evaluate(files_of(folder), tmp_path, smooth_network(3))
    rows, one = table(folder / network), table(tmp_path)
    assert [row["file"] for row in rows] == files_of(folder)
    for row, other in zip(rows, one, strict=True):
        assert row.keys() == other.keys()
        for key in ("file", "status", "predicted_class", "rank"):
            assert row[key] == other[key]
        for key in ("trace", "probability", "eigenvalue_3", "high_energy_share"):
            assert float(row[key]) == pytest.approx(float(other[key]), rel=1e-6)


def test_a_rank_that_fails_ends_all_with_its_error(launched):
    folder, done, seconds = launched
    assert done.returncode != 0
    assert f"ArithmeticError: {BROKEN}" in done.stderr
    # The other one does not say "connection closed by peer" but who failed, and of what.
    assert f"got an error on rank 1 (ArithmeticError: {BROKEN})" in done.stderr
    assert "onnection closed" not in done.stderr
    assert seconds < 120  # the whole command, on a machine that may be busy; gloo waits 1800
    assert_nobody_is_left(folder)
    assert_table_of_the_failure(table(folder / "failed"), folder)
    left = {path.name for path in (folder / "failed").iterdir()}
    assert left == {"ifim.csv", "run.json", ".ifim"}


def test_more_rows_than_the_store_takes_at_once(launched):
    folder, done, _ = launched
    assert (folder / "pieces").is_file(), done.stderr
    size = 9 << 20
    assert (folder / "pieces").read_text() == str({0: (size, 0), 1: (size, 1)})


# --- without torchrun ---------------------------------------------------------------------------


def test_a_rank_that_fails_ends_all_without_a_launcher(tmp_path):
    write_scans(tmp_path / "scans", 3, count=5)
    codes, errors = by_hand(tmp_path, "raises, at once")
    assert codes == [1, 1], errors
    assert f"got an error on rank 1 (ArithmeticError: {BROKEN})" in errors[0]
    assert errors[1].rstrip().endswith(f"ArithmeticError: {BROKEN}")
    assert_table_of_the_failure(table(tmp_path / "failed"), tmp_path)


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_all_without_a_launcher(tmp_path):
    """It can tell nobody; the other one notices in the collective."""
    write_scans(tmp_path / "scans", 3, count=5)
    codes, errors = by_hand(tmp_path, "killed")
    assert codes == [1, -signal.SIGKILL], errors
    rows = table(tmp_path / "failed")
    status = {Path(row["file"]).name: row["status"] for row in rows}
    assert [status[f"scan{i}.nii.gz"] for i in (0, 2, 4)] == ["ok"] * 3
    assert status["rank 1"].startswith("failed: the run ended here, before this rank")
    assert status["rank 0"].startswith("failed: the run ended here, RuntimeError")


# --- a bundle -----------------------------------------------------------------------------------


def bundle_run(images, output, *overlays):
    config = [ROOT / "bundles" / "ifim_signal_3d" / "configs" / "inference.json", *overlays]
    return [
        *("-m", "monai.bundle", "run", "--workflow_type", "infer"),
        *("--config_file", str([str(path) for path in config])),
        *("--dataset_dir", str(images), "--output_dir", str(output)),
    ]


def test_a_bundles_inference_over_two_processes(tmp_path):
    write_signal_images(signal_task("3d"), tmp_path / "images", 5, 0)
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run(
        [sys.executable, *bundle_run(tmp_path / "images", one)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        check=True,
    )
    overlay = ROOT / "configs" / "ifim_multi_process.yaml"
    done = torchrun(bundle_run(tmp_path / "images", two, overlay), tmp_path)
    # About one run in fifty, torch's gloo aborts while the ranks take their leave, with all results
    # written (as in tests/bundles/test_runs.py); every other failure counts.
    assert done.returncode == 0 or "Signal 6 (SIGABRT)" in done.stderr, done.stderr
    rows = table(two)
    assert [Path(row["file"]).name for row in rows] == [f"signal_{i:04d}.nii.gz" for i in range(5)]
    assert rows == table(one)
    predictions = [sorted((f / "predictions.csv").read_text().splitlines()) for f in (one, two)]
    assert predictions[0] == predictions[1]
    volumes = sorted(path.name for path in one.glob("*.nii.gz"))
    assert len(volumes) == 2 * 5
    assert volumes == sorted(path.name for path in two.glob("*.nii.gz"))
    for name in volumes:
        assert (one / name).read_bytes() == (two / name).read_bytes()


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2])
