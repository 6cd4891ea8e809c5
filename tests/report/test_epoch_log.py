"""What TensorBoard and MLflow get of each epoch."""

import logging
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.handlers import TensorBoardStatsHandler
from torch.utils.tensorboard import SummaryWriter

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.scans import dataset, write_scans
from _helpers.tables import read_table

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of protobuf
VOLUMES = ("high", "orth", "sensitivity")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_scans(tmp_path_factory.mktemp("scans"))


class Recording:
    """Stands in for a SummaryWriter."""

    def __init__(self, fail=False):
        self.scalars, self.histograms, self.figures, self.fail = {}, {}, {}, fail

    def add_scalar(self, tag, value, step):
        self.scalars.setdefault(step, []).append((tag, value))

    def add_histogram(self, tag, values, step):
        if self.fail:
            raise OSError("no space left on device")
        self.histograms[step] = np.array(values)

    def add_figure(self, tag, figure, step):
        self.figures[step] = figure

    def flush(self):
        pass


def texts(figure):
    return "\n".join(a.get_text() for a in figure.findobj(lambda a: hasattr(a, "get_text")))


def validate(files, handler, *logs, epochs=(1,), network=None):
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(dataset(files), batch_size=2),
        network=network or smooth_network(3),
        val_handlers=[handler, *logs],
    )
    for epoch in epochs:
        evaluator.run(epoch)
    return evaluator


def test_numbers_and_pictures_of_every_epoch(files, tmp_path):
    writer = Recording()
    handler = mi.IFIMHandler(output_dir=tmp_path, volumes=VOLUMES, class_names=["a", "b", "c", "d"])
    validate(files, handler, mi.IFIMEpochLog(handler, writer, most=2), epochs=(3, 6))
    rows = read_table(tmp_path)
    traces = [float(row["trace"]) for row in rows]
    assert list(writer.histograms) == list(writer.scalars) == list(writer.figures) == [3, 6]
    np.testing.assert_allclose(writer.histograms[6], traces, rtol=1e-6)
    shares = [[float(r[f"eigenvalue_{k}"]) / float(r["trace"]) for r in rows] for k in (1, 2, 3)]
    assert writer.scalars[6] == [
        (f"ifim_spectrum/0{k}", pytest.approx(np.mean(each)))
        for k, each in enumerate(shares, start=1)
    ]
    said = texts(writer.figures[6])
    best, second, *others = sorted(rows, key=lambda row: -float(row["trace"]))
    assert said.index(best["file"][-14:]) < said.index(second["file"][-14:])
    assert not any(row["file"][-14:] in said for row in others)
    assert "Epoch 6, the most sensitive 2 of 5 images." in said
    assert f"predicted {'abcd'[int(best['predicted_class'])]}" in said


def test_the_picture_is_that_of_the_image(files):
    """The same as ``show`` draws, from the network and the image."""
    writer, network = Recording(), smooth_network(3)
    handler = mi.IFIMHandler(volumes=VOLUMES)
    validate(files, handler, mi.IFIMEpochLog(handler, writer, most=1), network=network)
    images = [item["image"][None] for item in dataset(files)]
    spaces = [mi.eigenspace(network, image) for image in images]
    best = max(range(len(files)), key=lambda i: float(spaces[i].trace))
    own = [a.get_array() for axis in writer.figures[1].axes for a in axis.images]
    other = [
        a.get_array() for axis in mi.show(images[best], spaces[best]).axes for a in axis.images
    ]
    assert len(own) == len(other) > 0
    for one, two in zip(own, other, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-6)


def test_tensorboard_reads_it(files, tmp_path):
    handler = mi.IFIMHandler(volumes=VOLUMES)
    host = TensorBoardStatsHandler(log_dir=str(tmp_path), iteration_log=False)
    validate(files, handler, host, mi.IFIMEpochLog(handler, host, most=1))
    host.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = events.Tags()
    assert tags["scalars"] == [f"ifim_spectrum/0{k}" for k in (1, 2, 3)]
    assert (tags["histograms"], tags["images"]) == (["ifim_traces"], ["ifim_cases"])
    (histogram,) = events.Histograms("ifim_traces")
    assert histogram.histogram_value.num == len(files)
    (image,) = events.Images("ifim_cases")
    assert image.width > 800
    assert image.encoded_image_string.startswith(b"\x89PNG")


class Client:
    """Stands in for MLflow's, with the arguments of its methods."""

    def __init__(self):
        self.metrics, self.files = [], {}

    def log_metric(self, run_id, key, value, timestamp=None, step=None):
        self.metrics.append((run_id, key, step))

    def log_figure(self, run_id, figure, artifact_file, *, save_kwargs=None):
        self.files[artifact_file] = texts(figure)


def test_mlflow_gets_metrics_and_pictures(files):
    handler, client = mi.IFIMHandler(volumes=VOLUMES), Client()
    host = SimpleNamespace(client=client, cur_run=None)
    log = mi.IFIMEpochLog(handler, host)
    host.cur_run = SimpleNamespace(info=SimpleNamespace(run_id="r1"))  # as the engine starts
    validate(files, handler, log, epochs=(12,))
    assert client.metrics == [("r1", f"ifim_spectrum/0{k}", 12) for k in (1, 2, 3)]
    assert list(client.files) == ["ifim/traces_epoch_0012.png", "ifim/cases_epoch_0012.png"]
    assert "epoch 12: 5 images, F = 0 for 0" in client.files["ifim/traces_epoch_0012.png"]


def test_mlflow_itself(files, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    from monai.handlers import MLFlowHandler

    address = f"sqlite:///{tmp_path}/mlruns.db"
    host = MLFlowHandler(address, iteration_log=False)
    handler = mi.IFIMHandler(volumes=VOLUMES)
    validate(files, handler, host, mi.IFIMEpochLog(handler, host, most=1), epochs=(2,))
    client, run = mlflow.MlflowClient(address), host.cur_run.info.run_id
    (point, *_) = client.get_metric_history(run, "ifim_spectrum/01")
    assert point.step == 2
    names = [file.path for file in client.list_artifacts(run, "ifim")]
    assert names == ["ifim/cases_epoch_0002.png", "ifim/traces_epoch_0002.png"]


def test_a_writer_that_fails_is_alone_and_the_engine_goes_on(files, caplog):
    handler, good = mi.IFIMHandler(volumes=VOLUMES), Recording()
    log = mi.IFIMEpochLog(handler, [Recording(fail=True), good], most=1)
    with caplog.at_level(logging.WARNING):
        evaluator = validate(files, handler, log, epochs=(1, 2))
    assert evaluator.state.epoch == 2
    (told,) = [r.message for r in caplog.records if "does not log" in r.message]  # once
    assert told.startswith("TensorBoardWriter does not log the epoch in full: OSError: no space")
    assert list(good.histograms) == list(good.figures) == [1, 2]


@pytest.mark.parametrize("volumes", [[], ["high", "orth"]])
def test_pictures_without_their_volumes(files, caplog, volumes):
    writer, handler = Recording(), mi.IFIMHandler(volumes=volumes)
    with caplog.at_level(logging.WARNING):
        validate(files, handler, mi.IFIMEpochLog(handler, writer), epochs=(1, 2))
    assert len(writer.histograms[2]) == len(files)
    assert writer.figures == {}
    (told,) = [r.message for r in caplog.records if "no pictures" in r.message]
    assert "got no " in told
    assert "sensitivity" in told.split("got no")[1]


def test_no_pictures_are_wanted(files, caplog):
    writer, handler = Recording(), mi.IFIMHandler(volumes=[])
    with caplog.at_level(logging.WARNING):
        validate(files, handler, mi.IFIMEpochLog(handler, writer, most=0))
    assert len(writer.histograms[1]) == len(files)
    assert not [r for r in caplog.records if "picture" in r.message]


@pytest.mark.parametrize("first", ["handler", "log"])
@pytest.mark.parametrize("given", [None, 0.5, [0.1, 0.2], [torch.zeros(3)] * 2, {"loss": 1.0}])
def test_plain_ignite_whatever_it_returns_and_in_any_order(files, first, given):
    from ignite.engine import Engine

    writer, handler = Recording(), mi.IFIMHandler(smooth_network(3), volumes=VOLUMES)
    log = mi.IFIMEpochLog(handler, writer, most=1)
    engine = Engine(lambda engine, batch: given)
    for each in (handler, log) if first == "handler" else (log, handler):
        each.attach(engine)
    engine.run(DataLoader(dataset(files), batch_size=2))
    assert len(writer.histograms[1]) == len(files)
    assert "the most sensitive 1 of 5 images" in texts(writer.figures[1])


def test_attached_after_a_first_run_and_twice(files):
    from ignite.engine import Engine

    writer, handler = Recording(), mi.IFIMHandler(smooth_network(3), volumes=VOLUMES)
    engine, loader = Engine(lambda engine, batch: None), DataLoader(dataset(files), batch_size=2)
    handler.attach(engine)
    engine.run(loader)
    host = SimpleNamespace(writer=writer)  # as MONAI's handlers hold one
    log = mi.IFIMEpochLog(handler, [writer, host], most=1)
    log.attach(engine)
    log.attach(engine)
    engine.run(loader)
    assert len(writer.histograms[1]) == len(files)
    assert len(writer.scalars[1]) == 3


def test_what_could_log_nothing_is_refused(files):
    from ignite.engine import Engine

    handler, engine = mi.IFIMHandler(smooth_network(3)), Engine(lambda engine, batch: None)
    with pytest.raises(ValueError, match="expected something to log to, got no writers"):
        mi.IFIMEpochLog(handler).attach(engine)
    mi.IFIMEpochLog(handler, Recording()).attach(engine)
    with pytest.raises(ValueError, match="got one without it; attach the handler"):
        engine.run([torch.zeros(2, 1, 12, 12, 12)])


def test_detached_it_logs_no_more_and_keeps_nothing(files):
    from ignite.engine import Engine

    writer, handler = Recording(), mi.IFIMHandler(smooth_network(3), volumes=VOLUMES)
    engine, loader = Engine(lambda engine, batch: None), DataLoader(dataset(files), batch_size=2)
    log = mi.IFIMEpochLog(handler, writer, most=1)
    log.attach(engine)
    handler.attach(engine)
    engine.run(loader)
    log.detach(engine)
    log.detach(engine)  # a second time changes nothing
    engine.run(loader, max_epochs=2)
    assert list(writer.histograms) == [1]
    handler.detach(engine)
    engine.run(loader, max_epochs=3)
    log.attach(engine)
    handler.attach(engine)
    engine.run(loader, max_epochs=4)
    assert list(writer.histograms) == [1, 4]


def test_a_resumed_run_logs_all_numbers_and_says_which_images_are_drawn(files, tmp_path):
    first = mi.IFIMHandler(output_dir=tmp_path, volumes=VOLUMES)
    validate(files[:2], first)
    writer = Recording()
    handler = mi.IFIMHandler(output_dir=tmp_path, volumes=VOLUMES, resume=True)
    validate(files, handler, mi.IFIMEpochLog(handler, writer, most=1))
    traces = [float(row["trace"]) for row in read_table(tmp_path)]
    np.testing.assert_allclose(sorted(writer.histograms[1]), sorted(traces), rtol=1e-6)
    told = "the most sensitive 1 of 3 images at hand, of 5 in the epoch"
    assert told in " ".join(texts(writer.figures[1]).split())


def test_without_matplotlib(files, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    writer, handler = Recording(), mi.IFIMHandler(volumes=VOLUMES)
    with caplog.at_level(logging.WARNING):
        validate(files, handler, mi.IFIMEpochLog(handler, writer))
    assert len(writer.histograms[1]) == len(files)
    (told,) = [r.message for r in caplog.records if "matplotlib" in r.message]
    assert "pip install 'monai_ifim[report]'" in told


def test_it_takes_the_writers_that_an_evaluator_has(files, tmp_path):
    handler = mi.IFIMHandler(volumes=[])
    log = mi.IFIMEpochLog(handler)
    assert not log.adopt([handler, object()])
    assert handler.volumes == ()
    first = TensorBoardStatsHandler(SummaryWriter(str(tmp_path / "1")))
    second = TensorBoardStatsHandler(SummaryWriter(str(tmp_path / "2")))
    mlflow = SimpleNamespace(client=Client(), cur_run=None)
    assert log.adopt([first, mlflow, second])
    assert {getattr(w, "writer", None) for w in log.writers} == {first._writer, None}
    assert handler.volumes == VOLUMES


def test_without_matplotlib_an_evaluator_forms_no_volumes_for_pictures(files, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    handler, writer = mi.IFIMHandler(volumes=[]), Recording()
    log = mi.IFIMEpochLog(handler)
    with caplog.at_level(logging.WARNING):
        assert log.adopt([SimpleNamespace(writer=writer)])
        validate(files, handler, log, epochs=(1, 2))
    assert handler.volumes == ()
    assert list(writer.histograms) == [1, 2]
    (told,) = [r.message for r in caplog.records if "matplotlib" in r.message]  # once
    assert "pip install 'monai_ifim[report]'" in told


def test_another_kind_of_writer():
    with pytest.raises(ValueError, match=r"SummaryWriter or MONAI's.*got str"):
        mi.IFIMEpochLog(mi.IFIMHandler(), "runs")
    with pytest.raises(ValueError, match="most of 0 or more"):
        mi.IFIMEpochLog(mi.IFIMHandler(), most=-1)
