"""Two processes give the table of one, with an uneven number of files too."""

import csv
import json
import os
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from monai.data import DataLoader, DistributedSampler
from monai.engines import SupervisedEvaluator
from test_doors import dataset, smooth_network, unreadable, write_scans
from torch import nn
from torch.multiprocessing import ProcessRaisedException, spawn

import monai_ifim as mi

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
METRICS = ("trace", "largest_eigenvalue", "effective_rank")


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
