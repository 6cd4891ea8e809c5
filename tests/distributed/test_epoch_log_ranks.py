"""What rank 0 logs of an epoch of two ranks."""

import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
from monai.engines import SupervisedEvaluator
from torch.multiprocessing import spawn

import monai_ifim as mi

WORLD, EACH = 2, 3  # ranks, images of each


class Writer:
    """Stands in for a SummaryWriter; keeps what a test can compare."""

    def __init__(self):
        self.shares, self.traces, self.titles = {}, {}, {}

    def add_scalar(self, tag, value, step):
        self.shares.setdefault(step, []).append(value)

    def add_histogram(self, tag, values, step):
        self.traces[step] = sorted(map(float, values))

    def add_figure(self, tag, figure, step):
        found = figure.findobj(lambda artist: hasattr(artist, "get_text"))
        told = [" ".join(artist.get_text().split()) for artist in found]
        (self.titles[step],) = [text for text in told if "most sensitive" in text]

    def flush(self):
        pass


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()


def batches(rank):
    generator = torch.Generator().manual_seed(10 + rank)
    return [{"image": torch.rand(1, 1, 8, 8, generator=generator)} for _ in range(EACH)]


def work(rank, root):
    """What torchrun starts on each rank; every rank has a writer, or rank 0 alone."""
    os.environ["LOCAL_RANK"] = str(rank)  # as torchrun does; Ignite warns without
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/store", rank=rank, world_size=WORLD)
    for case in ("all", "first"):
        writer = Writer()
        handler = mi.IFIMHandler(volumes=("high", "orth", "sensitivity"))
        log = mi.IFIMEpochLog(handler, writer if case == "all" or rank == 0 else (), most=2)
        evaluator = SupervisedEvaluator(
            torch.device("cpu"), batches(rank), network(), val_handlers=[handler, log]
        )
        for epoch in (1, 2):
            evaluator.run(epoch)
        (Path(root) / f"{case}{rank}.json").write_text(json.dumps(vars(writer)))
    dist.destroy_process_group()


def test_rank_0_logs_the_numbers_of_all_and_needs_no_writer_elsewhere(tmp_path):
    spawn(work, (str(tmp_path),), nprocs=WORLD)
    images = torch.cat([batch["image"] for rank in range(WORLD) for batch in batches(rank)])
    space = mi.eigenspace(network(), images)
    shares = (space.eigenvalues / space.trace[:, None]).mean(dim=0)
    for case in ("all", "first"):
        told = json.loads((tmp_path / f"{case}0.json").read_text())
        assert list(told["traces"]) == list(told["shares"]) == list(told["titles"]) == ["1", "2"]
        for epoch in ("1", "2"):
            torch.testing.assert_close(
                torch.tensor(told["traces"][epoch]), space.trace.sort().values.float()
            )
            torch.testing.assert_close(torch.tensor(told["shares"][epoch]), shares.float())
            of = "the most sensitive 2 of 3 images at hand, of 6 in the epoch"
            assert of in told["titles"][epoch]
        other = json.loads((tmp_path / f"{case}1.json").read_text())
        assert other == {"shares": {}, "traces": {}, "titles": {}}
