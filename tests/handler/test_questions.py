"""Questions that a handler asks of each batch, and components in a pooled eigenspace."""

import math
import weakref
from dataclasses import dataclass

import pytest
import torch
from monai.data import DataLoader

import monai_ifim as mi
from _helpers.comparisons import assert_close
from _helpers.networks import smooth_network
from _helpers.recorders import evaluate
from _helpers.scans import dataset
from _helpers.tables import read_table
from monai_ifim.changes import MissingEntry
from monai_ifim.questions import Answer


@dataclass
class Doubled:
    """Twice the trace, and the gradient-weighted image; an image that begins so has no answer."""

    refused: float = math.nan
    name = "doubled trace"
    volumes = ("doubled",)
    seen = ()

    def answer(self, asked):
        self.seen = (*self.seen, len(asked.images))
        if bool((asked.images.flatten(1)[:, 0] == self.refused).any()):
            raise ValueError("expected another image, got this one; leave it out")
        again = asked.predict(asked.images)
        assert_close(again, asked.space.logits)
        columns = [{"doubled": 2 * trace} for trace in asked.space.trace.tolist()]
        return Answer(columns, {"doubled": 2 * asked.images})


class Tripled:
    name = "tripled trace"
    volumes = ()

    def answer(self, asked):
        return Answer([{"tripled": 3 * trace} for trace in asked.space.trace.tolist()])


@pytest.mark.parametrize("size", [1, 2, 5])
def test_columns_and_values(files, tmp_path, size):
    handler = mi.IFIMHandler(output_dir=tmp_path, questions=[Doubled()])
    loader = DataLoader(dataset(files), batch_size=size)
    _, items = evaluate(smooth_network(3), loader, handler)
    for row, item in zip(read_table(tmp_path), items, strict=True):
        assert row["status"] == "ok"
        assert_close(float(row["doubled"]), 2 * float(row["trace"]))
        assert_close(item["ifim_doubled"], 2 * item["image"])
        assert item["ifim_doubled"].meta["filename_or_obj"].endswith(row["file"])


@pytest.mark.parametrize("size", [1, 2, 5])
def test_an_image_without_an_answer_alone_fails(files, tmp_path, size):
    first = dataset(files)[2]["image"].flatten()[0].item()
    question = Doubled(first)
    handler = mi.IFIMHandler(output_dir=tmp_path, questions=[question, Tripled()])
    loader = DataLoader(dataset(files), batch_size=size)
    _, items = evaluate(smooth_network(3), loader, handler)
    rows = read_table(tmp_path)
    told = (
        "failed: no doubled trace: ValueError: expected another image, got this one; leave it out"
    )
    assert [row["status"] for row in rows] == ["ok", "ok", told, "ok", "ok"]
    assert [row["doubled"] != "" for row in rows] == [True, True, False, True, True]
    assert [row["tripled"] != "" for row in rows] == [True, True, False, True, True]
    # Also in a batch without any answer, for whoever writes the volumes.
    finite = [bool(torch.isfinite(item["ifim_doubled"]).all()) for item in items]
    assert finite == [True, True, False, True, True]
    assert all(item["ifim_doubled"].shape == item["image"].shape for item in items)


def test_an_error_of_a_question_is_raised_where_that_is_asked_for(files, tmp_path):
    first = dataset(files)[2]["image"].flatten()[0].item()
    handler = mi.IFIMHandler(output_dir=tmp_path, questions=[Doubled(first)], on_error="raise")
    with pytest.raises(ValueError, match="expected another image"):
        evaluate(smooth_network(3), DataLoader(dataset(files), batch_size=2), handler)


class Lacking:
    """A network's own KeyError for one image, or an entry that no batch has."""

    name, volumes = "something", ()

    def __init__(self, error, image=math.nan):
        self.error, self.image = error, image

    def answer(self, asked):
        mine = (asked.images.flatten(1)[:, 0] == self.image).any()
        if math.isnan(self.image) or mine:
            raise self.error
        return Answer([{"something": 1.0} for _ in asked.images])


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_key_error_for_one_image_is_that_images(files, tmp_path, size):
    first = dataset(files)[2]["image"].flatten()[0].item()
    handler = mi.IFIMHandler(output_dir=tmp_path, questions=[Lacking(KeyError("lut"), first)])
    evaluate(smooth_network(3), DataLoader(dataset(files), batch_size=size), handler)
    failed = [row["status"].startswith("failed") for row in read_table(tmp_path)]
    assert failed == [False, False, True, False, False]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_what_no_batch_has_ends_the_run_also_beside_a_bad_image(files, tmp_path, size):
    items = dataset(files)
    items[0]["image"][:] = math.nan
    handler = mi.IFIMHandler(output_dir=tmp_path, questions=[Lacking(MissingEntry("no maps"))])
    with pytest.raises(MissingEntry, match="no maps"):
        evaluate(smooth_network(3), DataLoader(items, batch_size=size), handler)


def test_two_questions_with_the_same_column(files, tmp_path):
    handler = mi.IFIMHandler(output_dir=tmp_path, questions=[Tripled(), Tripled()])
    with pytest.raises(ValueError, match="got tripled, which is there already"):
        evaluate(smooth_network(3), DataLoader(dataset(files), batch_size=2), handler)


def test_errors_of_memory_keep_nothing_alive(files, tmp_path):
    alive = weakref.WeakSet()

    class Large:
        name, volumes = "memory", ()

        def answer(self, asked):
            large = torch.zeros(10)
            alive.add(large)
            assert len(alive) <= 2, "tensors of earlier images"
            raise torch.OutOfMemoryError("CUDA out of memory")

    handler = mi.IFIMHandler(output_dir=tmp_path, questions=[Large()])
    evaluate(smooth_network(3), DataLoader(dataset(files), batch_size=5), handler)
    assert all("OutOfMemoryError" in row["status"] for row in read_table(tmp_path))


def test_components_in_a_pooled_eigenspace(files, tmp_path):
    network = smooth_network(3)
    images = torch.stack([item["image"].as_tensor() for item in dataset(files)])
    pooled = mi.pooled_eigenspace(network, images, rank=2)
    pooled.save(tmp_path / "pooled.safetensors")
    handler = mi.IFIMHandler(output_dir=tmp_path, space=tmp_path / "pooled.safetensors")
    _, items = evaluate(network, DataLoader(dataset(files), batch_size=2), handler)
    high, orth = pooled.split(images)
    energy = pooled.coefficients(images).square().sum(1) / images.double().flatten(1).square().sum(
        1
    )
    space = mi.eigenspace(network, images)
    for i, (row, item) in enumerate(zip(read_table(tmp_path), items, strict=True)):
        assert_close(item["ifim_high"], high[i])
        assert_close(item["ifim_orth"], orth[i])
        assert_close(float(row["high_energy_share"]), energy[i])
        assert_close(item["ifim_eigenvalues"], space.eigenvalues[i])


def test_another_pooled_eigenspace_is_another_run(files, tmp_path):
    network = smooth_network(3)
    images = torch.stack([item["image"].as_tensor() for item in dataset(files)])
    loader = DataLoader(dataset(files), batch_size=2)
    for rank, resume in ((2, False), (2, True)):
        pooled = mi.pooled_eigenspace(network, images, rank=rank)
        handler = mi.IFIMHandler(output_dir=tmp_path, space=pooled, resume=resume)
        evaluate(network, loader, handler)
    other = mi.IFIMHandler(
        output_dir=tmp_path, space=mi.pooled_eigenspace(network, images, rank=1), resume=True
    )
    with pytest.raises(ValueError, match="space"):
        evaluate(network, loader, other)


@pytest.mark.parametrize("space", ["nowhere.safetensors", 3])
def test_no_such_pooled_eigenspace(space):
    with pytest.raises((OSError, TypeError), match=r"nowhere|PooledEigenspace"):
        mi.IFIMHandler(space=space)


def test_a_pooled_eigenspace_of_another_shape_ends_the_run(files, tmp_path):
    pooled = mi.pooled_eigenspace(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)), torch.randn(4, 1, 3, 4)
    )
    handler = mi.IFIMHandler(output_dir=tmp_path, space=pooled)
    with pytest.raises(ValueError, match=r"expected images \(B, 1, 3, 4\)"):
        evaluate(smooth_network(3), DataLoader(dataset(files), batch_size=2), handler)


def test_the_stable_directions_unless_rank_says_how_many(files, tmp_path):
    network = smooth_network(3)
    images = torch.stack([item["image"].as_tensor() for item in dataset(files)])
    pooled = mi.pooled_eigenspace(network, images, rank=4)
    assert len(mi.IFIMHandler(space=pooled).space.eigenvalues) == pooled.stable_rank
    handler = mi.IFIMHandler(space=pooled, rank=4)  # more than F of one image has
    _, items = evaluate(network, DataLoader(dataset(files), batch_size=2), handler)
    assert_close(items[0]["ifim_high"], pooled.split(images)[0][0])
    assert items[0]["ifim_eigenvalues"].shape == mi.eigenspace(network, images).eigenvalues[0].shape
    with pytest.raises(ValueError, match="expected rank <= 4"):
        mi.IFIMHandler(space=pooled, rank=5)


def test_halves_that_do_not_agree_need_a_rank():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(300, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2)
    )
    images = torch.zeros(2, 1, 15, 20)
    images[0, 0, :7], images[1, 0, 8:] = 5 * torch.randn(7, 20), 5 * torch.randn(7, 20)
    network[1].weight.data[:32, :140], network[1].weight.data[32:, 160:] = 0, 0
    pooled = mi.pooled_eigenspace(network, images, rank=2)
    assert pooled.stable_rank == 0
    with pytest.raises(ValueError, match="halves of 2 pooled images agree, got none of 2"):
        mi.IFIMHandler(space=pooled)
    assert len(mi.IFIMHandler(space=pooled, rank=1).space.eigenvalues) == 1


def test_rank_bounds_the_spectrum_of_each_image_too(files):
    network = smooth_network(3)
    images = torch.stack([item["image"].as_tensor() for item in dataset(files)])
    pooled = mi.pooled_eigenspace(network, images, rank=4)
    handler = mi.IFIMHandler(space=pooled, rank=1)
    _, items = evaluate(network, DataLoader(dataset(files), batch_size=2), handler)
    assert_close(items[0]["ifim_high"], pooled.split(images, 1)[0][0])
    wanted = mi.eigenspace(network, images, rank=1).eigenvalues
    assert_close(items[0]["ifim_eigenvalues"], wanted[0])
    assert items[0]["ifim_eigenvalues"].shape == (1,)
    dense = torch.nn.Conv2d(1, 3, 3)
    within = mi.pooled_eigenspace(dense, torch.randn(4, 1, 9, 8), rank=5)
    array = mi.IFIMComponents(dense, space=within, rank=2)
    assert array(torch.randn(1, 9, 8))["ifim_eigenvalues"].shape == (2,)
