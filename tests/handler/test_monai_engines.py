"""The handler on MONAI's evaluator: kinds of networks, and how they are called."""

import copy

import pytest
import torch
import torch.distributed as dist
from ignite import distributed as idist
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from torch import nn

import monai_ifim as mi
from _helpers.comparisons import assert_close
from _helpers.networks import Returning, smooth_network
from _helpers.recorders import INFERERS, evaluate
from _helpers.scans import dataset
from _helpers.tables import read_table


@INFERERS
def test_a_tuple_with_output_transform(files, inferer):
    loader = DataLoader(dataset(files), batch_size=2)
    network = Returning(lambda z: (z, z.detach().sum(dim=1, keepdim=True)))
    handler = mi.IFIMHandler(output_transform=lambda y: y[0])
    _, items = evaluate(network, loader, handler, inferer=inferer, decollate=False)
    first = torch.stack([d["image"].as_tensor() for d in dataset(files[:2])])
    assert_close(items[0]["ifim_trace"], mi.eigenspace(network.body, first).trace)


def test_a_tuple_without_output_transform_says_what_to_do(files):
    loader = DataLoader(dataset(files), batch_size=2)
    with pytest.raises(TypeError, match="output_transform=lambda y: y"):
        evaluate(Returning(lambda z: (z, z)), loader, mi.IFIMHandler(), decollate=False)


@INFERERS
@pytest.mark.parametrize("decollate", [True, False])
def test_one_logit_of_a_convolutional_head(files, tmp_path, inferer, decollate):
    loader = DataLoader(dataset(files), batch_size=2)
    network = Returning(lambda z: z[:, :, None, None], classes=1)
    handler = mi.IFIMHandler(likelihood="bernoulli", output_dir=tmp_path)
    _, items = evaluate(network, loader, handler, inferer=inferer, decollate=decollate)
    images = torch.stack([d["image"].as_tensor() for d in dataset(files)])
    logits = network.body(images).detach().double()[:, 0]
    space = mi.eigenspace(network.body, images, likelihood="bernoulli")
    assert items[0]["pred"].shape == ((1, 1, 1) if decollate else (2, 1, 1, 1))
    rows = read_table(tmp_path)
    for i, row in enumerate(rows):
        assert float(row["trace"]) == pytest.approx(space.trace[i].item(), rel=1e-5)
        assert int(row["predicted_class"]) == int(logits[i] > 0)
        assert float(row["probability"]) == pytest.approx(
            torch.sigmoid(logits[i].abs()).item(), rel=1e-5
        )


def test_one_logit_with_the_categorical_family_says_what_to_do(files):
    loader = DataLoader(dataset(files), batch_size=2)
    with pytest.raises(ValueError, match="likelihood='bernoulli'"):
        evaluate(smooth_network(3, classes=1), loader, mi.IFIMHandler())


@INFERERS
def test_independent_labels(files, tmp_path, inferer):
    loader = DataLoader(dataset(files), batch_size=2)
    network = smooth_network(3, classes=4)
    handler = mi.IFIMHandler(likelihood="bernoulli", output_dir=tmp_path)
    _, items = evaluate(network, loader, handler, inferer=inferer)
    images = torch.stack([d["image"].as_tensor() for d in dataset(files)])
    p = torch.sigmoid(network(images).detach().double())
    for i, (item, row) in enumerate(zip(items, read_table(tmp_path), strict=True)):
        # trace F = sum over the labels of p (1 - p) |grad z|², from a loop of its own
        leaf = images[i : i + 1].clone().requires_grad_()
        trace = 0.0
        for label, logit in enumerate(network(leaf)[0]):
            (grad,) = torch.autograd.grad(logit, leaf, retain_graph=True)
            trace += p[i, label] * (1 - p[i, label]) * grad.double().square().sum()
        assert_close(item["ifim_trace"], trace)
        assert item["ifim_eigenvalues"].shape == (4,)
        present = "+".join(str(k) for k in range(4) if p[i, k] > 0.5)
        assert row["predicted_class"] == (present or "none")


@INFERERS
def test_further_arguments_of_the_network(files, inferer):
    """``prepare_batch`` gives image, label, args and kwargs, as for conditioned networks."""

    def prepare_batch(batch, device=None, non_blocking=False, **kwargs):
        image, label = batch["image"].to(device), batch["label"].to(device)
        return image, label, (label[:, None],), {"scale": 3.0}

    network = Returning(lambda z, shift, scale: scale * z + shift * torch.arange(4.0))
    loader = DataLoader(dataset(files), batch_size=2)
    _, items = evaluate(
        network, loader, mi.IFIMHandler(), inferer=inferer, prepare_batch=prepare_batch
    )
    for i, item in enumerate(items):
        image = dataset(files)[i]["image"].as_tensor()[None]
        plain = Returning(lambda z, label=i % 3: 3.0 * z + label * torch.arange(4.0))
        assert_close(item["ifim_eigenvalues"], mi.eigenspace(plain, image).eigenvalues[0])


@INFERERS
def test_distributed_data_parallel_of_one_process(files, tmp_path, inferer, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")  # as torchrun does; Ignite warns without
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        plain = smooth_network(3)
        network = nn.parallel.DistributedDataParallel(copy.deepcopy(plain))
        loader = DataLoader(dataset(files), batch_size=2)
        handler = mi.IFIMHandler(output_dir=tmp_path)
        _, items = evaluate(network, loader, handler, inferer=inferer)
        _, expected = evaluate(plain, loader, mi.IFIMHandler())
    finally:
        idist.finalize()  # Ignite forgets the group, and destroys it where it had noticed it
        if dist.is_initialized():
            dist.destroy_process_group()
    for item, other in zip(items, expected, strict=True):
        assert torch.equal(item["pred"], other["pred"])
        assert_close(item["ifim_eigenvalues"], other["ifim_eigenvalues"])
    assert [row["file"] for row in read_table(tmp_path)] == files


def test_network_of_the_handler_not_of_the_engine():
    """A graph that the inferer kept of the engine's network says nothing of another one."""
    engine_network, other = smooth_network(2, seed=1), smooth_network(2, seed=2)
    images = torch.randn(2, 1, 13, 11, generator=torch.Generator().manual_seed(0))
    batches = [{"image": images, "label": torch.zeros(2)}]
    handler = mi.IFIMHandler(other)
    evaluator = SupervisedEvaluator(
        "cpu",
        batches,
        network=engine_network,
        inferer=mi.IFIMInferer(),
        val_handlers=[handler],
        decollate=False,
    )
    evaluator.run()
    expected = mi.eigenspace(other, images).trace
    torch.testing.assert_close(evaluator.state.output["ifim_trace"], expected)
