"""Two processes give the table of one, with an uneven number of files too, and end together."""

import csv
import json
import os
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from ignite.engine import Events
from monai.data import DataLoader, DistributedSampler
from monai.engines import SupervisedEvaluator
from torch import nn
from torch.multiprocessing import ProcessRaisedException, spawn

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.scans import dataset, unreadable, write_scans

# MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

WORLD = 2

# Unreadable files, batch size, with IFIMInferer or without.
CASES = {
    "all readable": ((), 2, True),
    "handler's own forward": ((), 1, False),
    "one unreadable": ((2,), 2, True),
    "one rank without images": ((1, 3), 1, True),
    "no image at all": ((0, 1, 2, 3, 4), 2, False),
}
# What goes wrong on one rank, and how the other one says it. The processes go on: nobody notices by
# a closed connection, as nobody does under NCCL.
FAILURES = {
    # Rank 1 does not get to the second handler. The runs after that must not be mixed up.
    "folder": ("ValueError: expected an output folder", "error on rank 1 (ValueError: expected a"),
    "network": ("ArithmeticError: rank 1 on purpose", "got an error on rank 1 (ArithmeticError: "),
    "last batch": ("OSError: rank 1 on purpose", "got an error on rank 1 (OSError: "),
    "last handler": ("OSError: rank 1 on purpose", "got an error on rank 1 (OSError: "),
    "table": ("IsADirectoryError: ", "got an error on rank 0 (IsADirectoryError: "),
}
METRICS = ("trace", "largest_eigenvalue", "effective_rank")


class Unlucky(nn.Module):
    """A network that raises at the second image of rank 1."""

    def __init__(self):
        super().__init__()
        self.body, self.calls = smooth_network(3), 0

    def forward(self, x):
        self.calls += 1
        if self.calls == 2 and dist.get_rank() == 1:
            raise ArithmeticError("rank 1 on purpose")
        return self.body(x)


class UnluckyHandler:
    """Raises on rank 1 at an event of the epoch's end, before the rows are gathered."""

    def __init__(self, event):
        self.event = event

    def attach(self, engine):
        engine.add_event_handler(self.event, self._raise)

    def _raise(self, engine):
        if dist.get_rank() == 1:
            raise OSError("rank 1 on purpose")


def fail(name, files, folder):
    """One run in which something fails on one rank; returns its error and the seconds until it."""
    data, network = dataset(files), Unlucky() if name == "network" else smooth_network(3)
    sampler = DistributedSampler(data, even_divisible=False, shuffle=False)
    if name == "table" and dist.get_rank() == 0:  # a folder in the place of the table
        os.makedirs(f"{folder}/ifim.csv/full")
    place = files[0] if dist.get_rank() == 1 else folder
    before = {
        "folder": [mi.IFIMHandler(output_dir=f"{place}/first")],
        "last handler": [UnluckyHandler(Events.EPOCH_COMPLETED)],
    }
    after = {"last batch": [UnluckyHandler(Events.ITERATION_COMPLETED(once=2))]}
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(data, batch_size=1, sampler=sampler),
        network=network,
        inferer=mi.IFIMInferer(),
        key_val_metric={METRICS[0]: mi.SpectrumMetric(METRICS[0])},
        val_handlers=[
            *before.get(name, ()),
            mi.IFIMHandler(output_dir=folder),
            *after.get(name, ()),
        ],
    )
    start = time.monotonic()
    try:
        evaluator.run()
    except Exception as caught:
        error = f"{type(caught).__name__}: {caught}"
        return {"error": error, "seconds": time.monotonic() - start}
    return {"error": "", "seconds": time.monotonic() - start}


def evaluate(files, folder, batch_size, with_inferer, distributed):
    """One run; returns the error at its end and the epoch's metrics."""
    data, network = dataset(files), smooth_network(3)
    sampler = None
    if distributed:
        sampler = DistributedSampler(data, even_divisible=False, shuffle=False)
        network = nn.parallel.DistributedDataParallel(network)
    loader = mi.FaultTolerantDataLoader(data, batch_size=batch_size, sampler=sampler)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=network,
        inferer=mi.IFIMInferer() if with_inferer else None,
        key_val_metric={METRICS[0]: mi.SpectrumMetric(METRICS[0])},
        additional_metrics={name: mi.SpectrumMetric(name) for name in METRICS[1:]},
        val_handlers=[mi.IFIMHandler(output_dir=folder, fail_at_end=True)],
    )
    error = ""
    try:
        evaluator.run()
    except Exception as caught:
        error = f"{type(caught).__name__}: {caught}".replace(str(folder), "FOLDER")
    return {"error": error, "metrics": evaluator.state.metrics}


def work(rank, root, cases):
    """What torchrun starts on each rank."""
    os.environ["LOCAL_RANK"] = str(rank)  # as torchrun does; Ignite warns without
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{root}/store",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=15),  # a dead-lock ends with an error instead of never
    )
    for name, (_, batch_size, with_inferer) in cases.items():
        folder = f"{root}/{name}"
        result = evaluate(files_of(folder), f"{folder}/two", batch_size, with_inferer, True)
        with open(f"{folder}/rank{rank}.json", "w") as file:
            json.dump(result, file)
        dist.barrier()
    for name in FAILURES:
        result = fail(name, files_of(f"{root}/all readable"), f"{root}/{name}")
        with open(f"{root}/{name}{rank}.json", "w") as file:
            json.dump(result, file)
        dist.barrier()
    dist.destroy_process_group()


def files_of(folder):
    return [f"{folder}/scans/scan{i}.nii.gz" for i in range(5)]


def read_table(folder):
    with open(f"{folder}/ifim.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """All cases in one pair of processes, because starting them is what takes the time.

    A case that breaks the process group fails, and those after it; those before it count.
    """
    root = tmp_path_factory.mktemp("distributed")
    for name, (bad, _, _) in CASES.items():
        files = write_scans(root / name / "scans", 3, count=5)
        for i in bad:
            unreadable(files[i])
    error = None
    try:
        spawn(work, (str(root), CASES), nprocs=WORLD)
    except ProcessRaisedException as caught:
        error = caught
    return root, error


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_give_what_one_process_gives(root, name):
    bad, batch_size, with_inferer = CASES[name]
    folder, error = root[0] / name, root[1]
    if not all((folder / f"rank{rank}.json").exists() for rank in range(WORLD)):
        raise error
    expected = evaluate(files_of(folder), folder / "one", batch_size, with_inferer, False)
    results = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(WORLD)]
    # Every rank ends like the one process: none waits, none hides the failure.
    for result in results:
        ours, theirs = (r["error"].replace("/two/", "/one/") for r in (result, expected))
        assert ours == theirs
        assert bool(ours) == bool(bad)
        assert result["metrics"].keys() == expected["metrics"].keys()
        for key, value in expected["metrics"].items():
            assert result["metrics"][key] == pytest.approx(value, rel=1e-6)

    rows, one = read_table(folder / "two"), read_table(folder / "one")
    assert [row["file"] for row in rows] == files_of(folder)
    assert [row["status"] == "ok" for row in rows] == [i not in bad for i in range(5)]
    for row, other in zip(rows, one, strict=True):
        assert row.keys() == other.keys()
        for key, value in other.items():
            if key in ("file", "status", "predicted_class", "rank") or value == "":
                assert row[key] == value
            else:
                assert float(row[key]) == pytest.approx(float(value), rel=1e-6)


def test_the_numbers_are_those_of_the_core(root):
    """Guards the test above: two tables can agree and both be wrong."""
    folder = root[0] / "all readable"
    images = next(iter(DataLoader(dataset(files_of(folder)), batch_size=5)))["image"]
    space = mi.eigenspace(smooth_network(3), images.as_tensor())
    rows = read_table(folder / "two")
    assert [float(row["trace"]) for row in rows] == pytest.approx(space.trace.tolist(), rel=1e-5)


@pytest.mark.parametrize("name", FAILURES)
def test_one_rank_that_fails_ends_both(root, name):
    paths = [root[0] / f"{name}{rank}.json" for rank in range(WORLD)]
    if not all(path.exists() for path in paths):
        raise root[1]
    results = [json.loads(path.read_text()) for path in paths]
    own, theirs = FAILURES[name]
    failing = 0 if name == "table" else 1
    assert results[failing]["error"].startswith(own)
    assert theirs in results[1 - failing]["error"]
    # Nobody waited for the other: the process group's patience is 15 s, a failing rank's is 20 s.
    assert max(result["seconds"] for result in results) < 12


def test_rows_of_both_ranks_outlive_a_failure(root):
    files = files_of(root[0] / "all readable")
    status = {row["file"]: row["status"] for row in read_table(root[0] / "network")}
    # Rank 1 has the scans 1 and 3.
    assert status[files[1]] == "ok"
    assert status[files[3]] == "failed: the run ended here, ArithmeticError: rank 1 on purpose"
    # How far rank 0 came before it noticed is left to the clock (tests/test_torchrun.py holds it).
    mine = [status[file] for file in files[::2] if file in status]
    assert mine
    assert all(text == "ok" or "got an error on rank 1" in text for text in mine)
    # All images were done here, but the run was not: the table says so.
    status = {row["file"]: row["status"] for row in read_table(root[0] / "last handler")}
    assert [status.pop(file) for file in files] == ["ok"] * 5
    assert status == {"rank 1": "failed: the run ended here, OSError: rank 1 on purpose"}
