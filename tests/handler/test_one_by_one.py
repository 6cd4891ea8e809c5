"""Something raises for one image: the batch is done one by one, and that image alone fails."""

import math

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from torch import nn

import monai_ifim as mi
from _helpers.comparisons import assert_close
from _helpers.networks import smooth_network
from _helpers.recorders import INFERERS, evaluate
from _helpers.scans import dataset
from _helpers.tables import read_table


class Raising(nn.Module):
    """A network that raises when an image with this first voxel is in the batch."""

    def __init__(self, voxel, error=None, at=("forward", "again"), too=math.nan):
        super().__init__()
        self.too = too
        self.body = smooth_network(3)
        self.voxel, self.error, self.at = voxel, error or ArithmeticError("on purpose"), at

    def forward(self, x):
        passes = "again" if torch.is_grad_enabled() else "forward"
        voxels = x.detach().as_subclass(torch.Tensor).flatten(1)[:, 0]
        if passes in self.at and ((voxels == self.voxel) | (voxels == self.too)).any():
            raise self.error
        return self.body(x)


def voxel_of(files, index):
    return dataset(files)[index]["image"].flatten()[0].item()


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("index", [0, 2, 4])
def test_the_handlers_own_pass(files, tmp_path, size, index, caplog):
    """In somebody's validation loop: the iFIM fails, the prediction does not."""
    network = Raising(voxel_of(files, index), at=("again",))
    metrics = {"ifim_trace": mi.SpectrumMetric("trace")}
    handler = mi.IFIMHandler(output_dir=tmp_path, metrics=metrics)
    evaluator, items = evaluate(network, DataLoader(dataset(files), batch_size=size), handler)
    rows = read_table(tmp_path)
    assert [row["status"] for i, row in enumerate(rows) if i != index] == ["ok"] * 4
    assert rows[index]["status"] == "failed: ArithmeticError: on purpose"
    assert rows[index]["trace"] == ""
    for i, item in enumerate(items):
        image = dataset(files)[i]["image"].as_tensor()[None]
        assert item["ifim_high"].shape == item["image"].shape
        assert item["ifim_eigenvalues"].shape == items[1]["ifim_eigenvalues"].shape
        if i == index:
            assert item["ifim_high"].isnan().all()
            assert math.isnan(item["ifim_trace"])
        else:
            assert_close(item["ifim_trace"], mi.eigenspace(network.body, image).trace[0])
    good = [item["ifim_trace"] for i, item in enumerate(items) if i != index]
    assert evaluator.state.metrics["ifim_trace"] == pytest.approx(sum(good) / 4)
    assert evaluator.state.metrics["ifim_left_out"] == 1
    assert "on purpose" in caplog.text


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_prediction_itself(files, tmp_path, size):
    """In a bundle's inference, where the inferer says what to do."""
    network = Raising(voxel_of(files, 3))
    loader, saved = DataLoader(dataset(files), batch_size=size), []
    handler = mi.IFIMHandler(output_dir=tmp_path, postprocessing=saved.append, fail_at_end=True)
    with pytest.raises(RuntimeError, match=r"1 of 5 images have no result.*on purpose"):
        evaluate(network, loader, handler, inferer=mi.IFIMInferer(on_error="row"))
    rows = read_table(tmp_path)
    assert [row["status"] == "ok" for row in rows] == [True, True, True, False, True]
    assert len(saved) == 4
    # Without a host that asks for it, an error of the network is the host's.
    with pytest.raises(ArithmeticError, match="on purpose"):
        evaluate(network, loader, mi.IFIMHandler(), inferer=mi.IFIMInferer())


def test_predictions_of_the_others_are_what_they_were(files):
    network, inferer = Raising(voxel_of(files, 3)), mi.IFIMInferer(on_error="row")
    images = next(iter(DataLoader(dataset(files), batch_size=5)))["image"]
    with torch.no_grad():
        found = inferer(images, network)
        good = [0, 1, 2, 4]
        assert found[3].isnan().all()
        torch.testing.assert_close(found[good].as_tensor(), network.body(images.as_tensor())[good])
        assert inferer.failures(images) == {3: "ArithmeticError: on purpose"}
        assert inferer.failures(images.clone()) == {}
        inferer(images[:2], network)
    assert inferer.failures(images) == {}


@INFERERS
@pytest.mark.parametrize("options", [{"rank": 9}, {"rank": 1, "energy": 0.5}])
def test_options_that_do_not_fit_are_nobodys_fault_but_ours(files, inferer, options):
    loader = DataLoader(dataset(files), batch_size=2)
    with pytest.raises(ValueError, match="expected"):
        evaluate(smooth_network(3), loader, mi.IFIMHandler(**options), inferer=inferer)


def test_a_network_that_always_raises_ends_the_run(files, tmp_path):
    class Broken(nn.Linear):
        def forward(self, x):
            raise ArithmeticError("whatever the image")

    network = Broken(2, 2)
    for handler, inferer in (
        (mi.IFIMHandler(output_dir=tmp_path), mi.IFIMInferer(on_error="row")),
        (mi.IFIMHandler(), mi.IFIMInferer()),
    ):
        with pytest.raises(ArithmeticError, match="whatever the image"):
            evaluate(network, DataLoader(dataset(files), batch_size=2), handler, inferer=inferer)
    rows = read_table(tmp_path)
    assert rows[-1]["file"] == "run"
    assert all("whatever the image" in row["status"] for row in rows)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
        MemoryError(),
    ],
)
def test_memory_that_does_not_suffice_for_one_image_does_not_end_a_training(files, tmp_path, error):
    # Nor does it for an image of zeros.
    network = Raising(voxel_of(files, 1), error, at=("again",), too=0)
    loader = DataLoader(dataset(files), batch_size=1)
    _, items = evaluate(network, loader, mi.IFIMHandler(output_dir=tmp_path))
    assert [row["status"] == "ok" for row in read_table(tmp_path)] == [
        True,
        False,
        True,
        True,
        True,
    ]
    assert items[1]["ifim_high"].isnan().all()
    first = Raising(voxel_of(files, 0), error, at=("again",), too=0)
    _, items = evaluate(first, loader, mi.IFIMHandler())
    assert [math.isnan(item["ifim_trace"]) for item in items] == [True] + [False] * 4


def test_on_error_raise_ends_the_run_with_the_first_error(files, tmp_path):
    network = Raising(voxel_of(files, 2), at=("again",))
    handler = mi.IFIMHandler(output_dir=tmp_path, on_error="raise")
    with pytest.raises(ArithmeticError, match="on purpose"):
        evaluate(network, DataLoader(dataset(files), batch_size=2), handler)
    assert [row["status"] for row in read_table(tmp_path)][:2] == ["ok", "ok"]
    for make in (mi.IFIMHandler, mi.IFIMInferer):
        with pytest.raises(ValueError, match="expected on_error 'row' or 'raise'"):
            make(on_error="skip")


def test_the_first_error_is_the_one_that_is_raised(files, tmp_path, caplog):
    """Although the table cannot be written either."""
    out = tmp_path / "out"
    network = Raising(voxel_of(files, 2), at=("again",))
    handler = mi.IFIMHandler(output_dir=out, on_error="raise")
    loader = DataLoader(dataset(files), batch_size=1)

    class Spoiler:
        def attach(self, engine):
            engine.add_event_handler(Events.ITERATION_STARTED(once=3), self.spoil)

        def spoil(self, engine):
            (out / "ifim.csv" / "folder").mkdir(parents=True)

    with pytest.raises(ArithmeticError, match="on purpose"):
        evaluate(network, loader, handler, more_handlers=[Spoiler()])
    assert "the table is not written" in caplog.text


def test_a_detached_handler_does_nothing(files, tmp_path):
    metrics = {"ifim_trace": mi.SpectrumMetric("trace")}
    handler = mi.IFIMHandler(output_dir=tmp_path, metrics=metrics)
    loader = DataLoader(dataset(files), batch_size=5)
    evaluator, items = evaluate(smooth_network(3), loader, handler)
    assert "ifim_trace" in items[0]
    (tmp_path / "ifim.csv").unlink()
    handler.detach(evaluator)
    evaluator.run()
    assert "ifim_trace" not in evaluator.state.output[0]
    assert not (tmp_path / "ifim.csv").exists()
    with pytest.raises(ValueError, match="expected an engine that this handler is attached to"):
        handler.detach(evaluator)
    handler.attach(evaluator)
    evaluator.run()
    assert len(read_table(tmp_path)) == 5


class Limited(nn.Module):
    """A network for which memory does not suffice above eight pixels a side."""

    def __init__(self, dense):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.dense = nn.Conv2d(1, 3, 3, padding=1), dense

    def forward(self, x):
        if x.shape[-1] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.body(x) if self.dense else self.body(x).mean(dim=(2, 3))


def test_a_larger_image_than_memory_suffices_for_is_a_row_of_the_inferer():
    network, inferer = Limited(dense=False), mi.IFIMInferer(on_error="row")
    small, large = torch.ones(2, 1, 8, 8), torch.ones(1, 1, 16, 16)
    with pytest.raises(torch.OutOfMemoryError):  # no image has told yet what a prediction is
        inferer(large, network)
    assert inferer(small, network).isfinite().all()
    found = inferer(large, network)
    assert found.shape == (1, 3)
    assert found.isnan().all()
    assert "out of memory" in inferer.failures(large)[0]
    assert inferer(small, network).isfinite().all()


def test_a_segmentation_has_no_result_to_leave_blank_for_images_of_another_size():
    network, inferer = Limited(dense=True), mi.IFIMInferer(on_error="row")
    inferer(torch.ones(2, 1, 8, 8), network)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        inferer(torch.ones(1, 1, 16, 16), network)
