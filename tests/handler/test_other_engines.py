"""Engines that never fire FORWARD_COMPLETED: plain Ignite, and iterations of one's own."""

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents

import monai_ifim as mi
from _helpers.comparisons import assert_close
from _helpers.networks import smooth_network
from _helpers.recorders import Recorder
from _helpers.scans import dataset, oblique
from _helpers.tables import read_table


def plain_engine(network, output=None):
    def step(engine, batch):
        images = batch["image"] if isinstance(batch, dict) else batch[0]
        with torch.no_grad():
            prediction = network(images)
        return prediction if output is None else {output: prediction}

    return Engine(step)


@pytest.mark.parametrize("output", [None, "pred"])
def test_plain_ignite_with_pairs(tmp_path, output):
    network = smooth_network(3)
    images = torch.randn(2, 1, 13, 11, 9)
    engine = plain_engine(network, output)
    seen = []
    mi.IFIMHandler(network, output_dir=tmp_path).attach(engine)
    recorder = Recorder()
    recorder.attach(engine)
    engine.add_event_handler("ITERATION_COMPLETED", lambda e: seen.append(e.state.ifim))
    engine.run([(images, torch.zeros(2)), [images + 1, torch.zeros(2)]])

    expected = [mi.eigenspace(network, x) for x in (images, images + 1)]
    for report, space in zip(seen, expected, strict=True):
        assert_close(report["ifim_eigenvalues"], space.eigenvalues)
    if output is None:
        assert torch.equal(recorder.items[1], network(images + 1))
    else:
        assert_close(recorder.items[1]["ifim_trace"], expected[1].trace)
        assert torch.equal(recorder.items[1]["pred"], network(images + 1))
    rows = read_table(tmp_path)
    traces = torch.cat([space.trace for space in expected])
    assert [row["file"] for row in rows] == [f"image {i}" for i in range(4)]
    assert [float(row["trace"]) for row in rows] == pytest.approx(traces.tolist(), rel=1e-6)


def test_plain_ignite_with_dictionaries(files, tmp_path):
    network = smooth_network(3).eval()
    engine = plain_engine(network, "pred")
    mi.IFIMHandler(network, output_dir=tmp_path).attach(engine)
    recorder = Recorder()
    recorder.attach(engine)
    engine.run(DataLoader(dataset(files), batch_size=2))
    assert [row["file"] for row in read_table(tmp_path)] == files
    high = recorder.items[0]["ifim_high"]
    assert high.meta["filename_or_obj"] == files[:2]
    assert torch.equal(high.affine[1], recorder.items[0]["ifim_orth"].affine[1])
    np.testing.assert_allclose(high.affine[1], oblique(1), atol=1e-5)


def test_plain_ignite_with_a_batch_transform(tmp_path):
    network, images = smooth_network(3), torch.randn(2, 1, 13, 11, 9)
    engine = Engine(lambda e, batch: None)
    handler = mi.IFIMHandler(
        network, batch_transform=lambda batch: batch["study"]["scan"], output_dir=tmp_path
    )
    handler.attach(engine)
    engine.run([{"study": {"scan": images}}])
    assert_close(engine.state.ifim["ifim_trace"], mi.eigenspace(network, images).trace)

    engine = Engine(lambda e, batch: None)
    mi.IFIMHandler(network).attach(engine)
    with pytest.raises(TypeError, match="batch_transform"):
        engine.run([{"study": {"scan": images}}])


def test_an_engine_without_network_is_refused():
    """When it runs: MONAI's engines attach their handlers before they have their network."""
    engine = Engine(lambda e, batch: None)
    mi.IFIMHandler().attach(engine)
    with pytest.raises(ValueError, match=r"got Engine without.*pass IFIMHandler\(network=...\)"):
        engine.run([(torch.randn(2, 1, 13, 11, 9), torch.zeros(2))])


def silent_update(engine, batch):
    """A custom iteration that fires no event of MONAI's."""
    images = batch["image"].to(engine.state.device)
    with engine.mode(engine.network):
        return {"image": images, "pred": engine.network(images)}


def update_that_decollates(engine, batch):
    """A custom iteration that lets MONAI decollate and postprocess."""
    engine.state.output = silent_update(engine, batch)
    engine.fire_event(IterationEvents.MODEL_COMPLETED)
    return engine.state.output


@pytest.mark.parametrize("update", [silent_update, update_that_decollates])
def test_evaluator_with_its_own_iteration(files, tmp_path, update):
    network = smooth_network(3)
    loader = DataLoader(dataset(files), batch_size=2)
    seen = []

    class Look:
        def attach(self, engine):
            engine.add_event_handler("ITERATION_COMPLETED", lambda e: seen.append(e.state.ifim))

    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=network,
        iteration_update=update,
        val_handlers=[mi.IFIMHandler(output_dir=tmp_path), Look(), recorder := Recorder()],
    )
    evaluator.run()
    images = torch.stack([d["image"].as_tensor() for d in dataset(files)])
    space = mi.eigenspace(network, images)
    assert_close(torch.cat([s["ifim_trace"] for s in seen]), space.trace)
    rows = read_table(tmp_path)
    assert [float(row["trace"]) for row in rows] == pytest.approx(space.trace.tolist(), rel=1e-5)
    assert [row["file"] for row in rows] == files
    for i, item in enumerate(recorder.items if update is update_that_decollates else []):
        assert_close(item["ifim_high"], space.split(images)[0][i])
        assert item["ifim_high"].meta["filename_or_obj"] == files[i]
        np.testing.assert_allclose(item["ifim_high"].affine, oblique(i), atol=1e-5)
