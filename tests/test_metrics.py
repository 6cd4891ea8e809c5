"""The spectrum's numbers as a validation metric, and how they reach MONAI's reporters."""

import csv

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader
from monai.engines import SupervisedTrainer
from monai.handlers import (
    CheckpointSaver,
    MeanAbsoluteError,
    MetricsSaver,
    TensorBoardStatsHandler,
    ValidationHandler,
    from_engine,
)
from torch import nn

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.recorders import evaluate
from _helpers.scans import dataset, write_scans
from monai_ifim.metrics import effective_rank

# MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

STATISTICS = ("trace", "largest_eigenvalue", "effective_rank")


@pytest.fixture
def files(tmp_path):
    return write_scans(tmp_path / "scans", 3, count=5)


def independent(network, files):
    """The three numbers of each image from the dense matrix F itself, in float64."""
    network = network.double()
    numbers = {name: [] for name in STATISTICS}
    for item in dataset(files):
        image = item["image"].as_tensor().double()[None].requires_grad_()
        log_p = torch.log_softmax(network(image)[0], dim=0)
        scores = torch.stack(
            [
                torch.autograd.grad(value, image, retain_graph=True)[0].flatten()
                * (value / 2).exp()
                for value in log_p
            ]
        )
        # F = G Gᵀ has the singular values of G squared as eigenvalues.
        eigenvalues = torch.linalg.svdvals(scores.detach()).square().numpy()
        share = eigenvalues / eigenvalues.sum()
        entropy = -sum(p * np.log(p) for p in share if p > 0)
        numbers["trace"].append(eigenvalues.sum())
        numbers["largest_eigenvalue"].append(eigenvalues[0])
        numbers["effective_rank"].append(np.exp(entropy))
    network.float()
    return {name: np.array(values) for name, values in numbers.items()}


def all_metrics(**options):
    return {f"ifim_{name}": mi.SpectrumMetric(name, **options) for name in STATISTICS}


@pytest.mark.parametrize("decollate", [True, False])
@pytest.mark.parametrize("place", ["key", "additional", "handler"])
def test_mean_over_the_epoch_and_details(files, decollate, place):
    network = smooth_network(3)
    expected = independent(network, files)
    metrics = all_metrics()
    handler = mi.IFIMHandler(metrics=metrics if place == "handler" else None)
    options = {}
    if place != "handler":
        names = list(metrics)
        first = {names[0]: metrics[names[0]]}
        rest = {name: metrics[name] for name in names[1:]}
        options = {"key_val_metric": first, "additional_metrics": rest}
    if place == "additional":
        options["key_val_metric"], options["additional_metrics"] = (
            dict([rest.popitem()]),
            first | rest,
        )
    loader = DataLoader(dataset(files), batch_size=2)
    evaluator, _ = evaluate(network, loader, handler, decollate=decollate, **options)
    for name in STATISTICS:
        # 5 images in batches of 2, 2, 1: a mean of batch means would differ.
        assert evaluator.state.metrics[f"ifim_{name}"] == pytest.approx(
            expected[name].mean(), rel=1e-5
        )
        details = evaluator.state.metric_details[f"ifim_{name}"]
        assert details.shape == (5, 1)
        np.testing.assert_allclose(details[:, 0], expected[name], rtol=1e-5)


def test_numbers_of_kept_eigenvalues(files):
    """With ``rank`` the trace stays that of the whole of F."""
    network = smooth_network(3)
    expected = independent(network, files)
    handler = mi.IFIMHandler(rank=1, metrics=all_metrics())
    evaluator, _ = evaluate(network, DataLoader(dataset(files), batch_size=2), handler)
    metrics = evaluator.state.metrics
    assert metrics["ifim_trace"] == pytest.approx(expected["trace"].mean(), rel=1e-5)
    assert metrics["ifim_largest_eigenvalue"] == pytest.approx(
        expected["largest_eigenvalue"].mean(), rel=1e-5
    )
    assert metrics["ifim_effective_rank"] == pytest.approx(1)


def test_effective_rank_counts_directions():
    spectra = torch.tensor(
        [[3.0, 0, 0, 0], [2, 2, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=torch.float64
    )
    torch.testing.assert_close(effective_rank(spectra), torch.tensor([1.0, 2, 4, 0]).double())
    # exp of the entropy of (3/4, 1/4)
    value = effective_rank(torch.tensor([6.0, 2.0], dtype=torch.float64))
    assert value.item() == pytest.approx(4 / 3**0.75)


def test_every_epoch_starts_anew(files):
    handler = mi.IFIMHandler(metrics=all_metrics())
    loader = DataLoader(dataset(files), batch_size=2)
    evaluator, _ = evaluate(smooth_network(3), loader, handler)
    first = dict(evaluator.state.metrics)
    evaluator.run()
    assert evaluator.state.metrics == first
    assert len(evaluator.state.metric_details["ifim_trace"]) == 5


def test_without_details(files):
    loader = DataLoader(dataset(files), batch_size=2)
    handler = mi.IFIMHandler(metrics=all_metrics(save_details=False))
    evaluator, _ = evaluate(smooth_network(3), loader, handler)
    assert evaluator.state.metrics["ifim_trace"] > 0
    assert "ifim_trace" not in evaluator.state.metric_details


def test_metrics_saver_writes_mean_and_details(files, tmp_path):
    saver = MetricsSaver(
        save_dir=str(tmp_path),
        metrics="*",
        metric_details="*",
        batch_transform=lambda batch: [item["image"].meta for item in batch],
        delimiter=",",
    )
    evaluator, _ = evaluate(
        smooth_network(3),
        DataLoader(dataset(files), batch_size=2),
        mi.IFIMHandler(),
        key_val_metric={"ifim_trace": mi.SpectrumMetric("trace")},
        more_handlers=[saver],
    )
    (line,) = (tmp_path / "metrics.csv").read_text().splitlines()
    name, value = line.split(",")
    assert name == "ifim_trace"
    assert float(value) == pytest.approx(evaluator.state.metrics["ifim_trace"])
    with (tmp_path / "ifim_trace_raw.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    details = evaluator.state.metric_details["ifim_trace"][:, 0]
    assert [row["filename"] for row in rows] == files
    assert [float(row["class0"]) for row in rows] == pytest.approx(details.tolist(), abs=1e-4)


def test_tensorboard_shows_the_epochs_of_a_training(files, tmp_path):
    """Read back from the event file: one value for each validation epoch."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    network, values = smooth_network(3, classes=3), []

    class Values:
        def attach(self, engine):
            engine.add_event_handler(
                "EPOCH_COMPLETED", lambda e: values.append(dict(e.state.metrics))
            )

    board = TensorBoardStatsHandler(
        log_dir=str(tmp_path / "board"),
        iteration_log=False,
        output_transform=lambda _: None,
        global_epoch_transform=lambda _: trainer.state.epoch,
    )
    loader = DataLoader(dataset(files), batch_size=2)
    evaluator, _ = evaluate(
        network,
        loader,
        mi.IFIMHandler(),
        inferer=mi.IFIMInferer(),
        key_val_metric={"ifim_trace": mi.SpectrumMetric("trace")},
        additional_metrics={"ifim_effective_rank": mi.SpectrumMetric("effective_rank")},
    )
    Values().attach(evaluator)
    board.attach(evaluator)
    saver = CheckpointSaver(
        str(tmp_path), {"net": network}, save_key_metric=True, key_metric_filename="best.pt"
    )
    saver.attach(evaluator)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=3,
        train_data_loader=loader,
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), 1e-2),
        loss_function=nn.CrossEntropyLoss(),
        train_handlers=[ValidationHandler(1, evaluator)],
    )
    trainer.run()
    board.close()

    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert {"ifim_trace", "ifim_effective_rank"} <= set(events.Tags()["scalars"])
    for name in ("ifim_trace", "ifim_effective_rank"):
        scalars = events.Scalars(name)
        assert [s.step for s in scalars] == [1, 2, 3]
        assert [s.value for s in scalars] == pytest.approx([v[name] for v in values], rel=1e-6)
    assert len({v["ifim_trace"] for v in values}) == 3
    assert evaluator.state.key_metric_name == "ifim_trace"
    assert evaluator.state.best_metric == max(v["ifim_trace"] for v in values)
    assert (tmp_path / "best.pt").exists()


def test_a_missing_handler_is_named(files):
    loader = DataLoader(dataset(files), batch_size=2)
    for decollate in (True, False):
        with pytest.raises(KeyError, match="attach IFIMHandler to the same engine"):
            evaluate(
                smooth_network(3),
                loader,
                key_val_metric={"ifim_trace": mi.SpectrumMetric()},
                decollate=decollate,
            )


def test_images_without_a_result_do_not_count(files):
    """One NaN image among five: the mean is that of the four others."""
    network = smooth_network(3)
    expected = independent(network, [f for i, f in enumerate(files) if i != 2])

    def spoil(batch):
        names = batch["image"].meta["filename_or_obj"]
        for i, name in enumerate(names):
            if name == files[2]:
                batch["image"][i, 0, 0, 0, 0] = torch.nan
        return batch

    batches = [spoil(batch) for batch in DataLoader(dataset(files), batch_size=2)]
    evaluator, _ = evaluate(network, batches, mi.IFIMHandler(metrics=all_metrics()))
    for name in STATISTICS:
        assert evaluator.state.metrics[f"ifim_{name}"] == pytest.approx(
            expected[name].mean(), rel=1e-5
        )
    details = evaluator.state.metric_details["ifim_trace"][:, 0]
    assert torch.isnan(torch.as_tensor(details)).tolist() == [False, False, True, False, False]


def test_beside_a_metric_of_monai(files):
    """MONAI's own metrics read the same predictions with and without the handler."""

    def pairs(output):
        predictions, labels = from_engine(["pred", "label"])(output)
        return predictions, [torch.tensor([float(label)]) for label in labels]

    results = []
    for handler in (None, mi.IFIMHandler(likelihood="bernoulli", metrics=all_metrics())):
        evaluator, _ = evaluate(
            smooth_network(3, classes=1),
            DataLoader(dataset(files), batch_size=2),
            handler,
            key_val_metric={"mae": MeanAbsoluteError(output_transform=pairs)},
        )
        results.append(evaluator.state.metrics["mae"])
    assert results[0] == results[1]


def test_on_a_plain_ignite_engine(files):
    network = smooth_network(3)
    expected = independent(network, files)

    def step(engine, batch):
        with torch.no_grad():
            return {"pred": network(batch["image"])}

    engine = Engine(step)
    mi.IFIMHandler(network, metrics=all_metrics()).attach(engine)
    engine.run(DataLoader(dataset(files), batch_size=2))
    for name in STATISTICS:
        assert engine.state.metrics[f"ifim_{name}"] == pytest.approx(
            expected[name].mean(), rel=1e-5
        )
