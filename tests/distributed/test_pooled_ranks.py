"""Two ranks give one rank's pooled eigenspace, and both have the same metrics."""

import json
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from monai.engines import SupervisedEvaluator
from torch.multiprocessing import spawn

import monai_ifim as mi

WORLD, FILE = 2, "ifim_pooled.safetensors"
EACH = (3, 2)  # images of each rank


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()


def batches(rank, wrong=False):
    generator = torch.Generator().manual_seed(10 + rank)
    size = 4 if wrong and rank else 8
    shape = (1, 1, size, 64 // size)
    return [{"image": torch.rand(shape, generator=generator)} for _ in range(EACH[rank])]


def work(rank, root):
    """What torchrun starts on each rank."""
    os.environ["LOCAL_RANK"] = str(rank)  # as torchrun does; Ignite warns without
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/store", rank=rank, world_size=WORLD)
    for case in ("same", "shapes", "alone"):
        handler = mi.IFIMHandler(output_dir=Path(root) / case, pooled=FILE)
        given = batches(rank, wrong=case == "shapes")
        if case == "alone" and rank == 1:  # none of its images has a result
            given = [{"image": torch.full_like(batch["image"], torch.nan)} for batch in given]
        evaluator = SupervisedEvaluator(
            torch.device("cpu"), given, network(), val_handlers=[handler]
        )
        for epoch in (1, 2):
            evaluator.run(epoch)
        told = {"metrics": evaluator.state.metrics, "has": evaluator.state.ifim_pooled is not None}
        (Path(root) / f"{case}{rank}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("ranks")
    spawn(work, (str(root),), nprocs=WORLD)
    return root


@pytest.mark.parametrize(("case", "ranks"), [("same", (0, 1)), ("alone", (0,))])
def test_the_ranks_pool_together(folder, case, ranks):
    images = torch.cat([batch["image"] for rank in ranks for batch in batches(rank)])
    expected = mi.pooled_eigenspace(network(), images)
    stored = mi.PooledEigenspace.load(folder / case / FILE)
    torch.testing.assert_close(stored.eigenvalues, expected.eigenvalues, rtol=1e-5, atol=1e-7)
    assert float(stored.angles(expected, rank=len(expected.eigenvalues)).max()) < 1e-3
    torch.testing.assert_close(stored.mean_jacobian, expected.mean_jacobian)
    assert (stored.count, stored.about["images"]) == (len(images), "5")
    assert (folder / case / "ifim_pooled_epoch_0001.safetensors").is_file()
    told = [json.loads((folder / f"{case}{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0]["metrics"] == told[1]["metrics"]
    assert told[0]["metrics"]["ifim_pooled_images"] == len(images)
    assert told[0]["metrics"]["ifim_pooled_angle_before"] == pytest.approx(0, abs=1e-3)
    assert [each["has"] for each in told] == [True, False]


def test_shapes_that_differ_between_ranks_end_nothing(folder):
    assert not (folder / "shapes" / FILE).exists()
    told = [json.loads((folder / f"shapes{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1] == {"metrics": {}, "has": False}
