"""Ctrl-C and SIGTERM in real engines: the table is there, and nobody's signals are kept."""

import json
import signal

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import CheckpointSaver, StatsHandler, ValidationHandler

import monai_ifim as mi
from _helpers.signals import NUMBERS, given_back, send, usual_signals
from _helpers.tables import read_table

COUNT = 6


@pytest.fixture(autouse=True)
def usual():
    with usual_signals():
        yield


class Network(torch.nn.Module):
    """Asks for something to be done at its n-th batch, in the middle of it."""

    def __init__(self, then=None, at=3):
        super().__init__()
        self.linear, self.calls = torch.nn.Linear(16, 3), 0
        self.then, self.at = then, at

    def forward(self, images):
        self.calls += 1
        if self.calls == self.at and self.then is not None:
            self.then()
        return self.linear(images.flatten(1))


def loader():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(COUNT, 1, 4, 4, generator=generator)
    return DataLoader(Dataset([{"image": each, "label": 0} for each in images]), batch_size=1)


def evaluator_of(network, out, *before, after=(), **options):
    handler = mi.IFIMHandler(output_dir=out, **options)
    return evaluator_with(network, *before, handler, *after)


def evaluator_with(network, *handlers):
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader(),
        network=network,
        inferer=mi.IFIMInferer(),
        val_handlers=list(handlers),
    )


def record(out):
    return json.loads((out / "run.json").read_text())


def done(out):
    return [row["status"] for row in read_table(out)].count("ok")


@NUMBERS
def test_the_batch_in_work_is_done_and_counts(number, tmp_path):
    out = tmp_path / "out"
    evaluator = evaluator_of(Network(lambda: send(number)), out)
    with pytest.raises(KeyboardInterrupt):
        evaluator.run()
    assert (done(out), record(out)["state"]) == (3, "interrupted")
    assert given_back()


@NUMBERS
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_handlers_that_raise_the_error_themselves_do_not_take_the_table(number, error, tmp_path):
    """MONAI's StatsHandler stands before ours, CheckpointSaver after it; all three are told."""

    def fail():
        if error is RuntimeError:
            raise RuntimeError("no luck")
        send(number)

    out, network = tmp_path / "out", Network(fail)
    saver = CheckpointSaver(
        str(tmp_path / "final"), {"network": network}, save_final=True, final_filename="final.pt"
    )
    evaluator = evaluator_of(network, out, after=[saver], on_error="raise")
    with pytest.raises(error):
        evaluator.run()
    assert (tmp_path / "final" / "final.pt").exists()
    assert record(out)["state"] == "interrupted"
    stats = StatsHandler(name="s", output_transform=lambda output: None)
    network = Network(fail)
    handler = mi.IFIMHandler(output_dir=tmp_path / "b", on_error="raise")
    with pytest.raises(error):
        evaluator_with(network, stats, handler).run()
    assert done(tmp_path / "b") == (3 if error is KeyboardInterrupt else 2)
    assert given_back()
    # The same handler again, on another engine.
    network.then = None
    evaluator_with(network, stats, handler).run()
    assert done(tmp_path / "b") == COUNT


@NUMBERS
def test_two_more_times_while_the_table_is_written(number, tmp_path, monkeypatch):
    out = tmp_path / "out"
    evaluator = evaluator_of(Network(lambda: send(number)), out)
    (handler,) = [
        each[0].__self__
        for each in evaluator._event_handlers[Events.EPOCH_STARTED]
        if isinstance(getattr(each[0], "__self__", None), mi.IFIMHandler)
    ]
    rescue = handler.table.rescue

    def impatient(*args, **kwargs):
        send(signal.SIGINT)
        return rescue(*args, **kwargs)

    monkeypatch.setattr(handler.table, "rescue", impatient)
    with pytest.raises(KeyboardInterrupt):
        evaluator.run()
    assert done(out) == 3
    assert given_back()


@pytest.mark.parametrize("how", ["interrupt", "terminate", "skip_completed"])
def test_an_engine_that_ends_early_gives_them_back(how, tmp_path):
    out = tmp_path / "out"

    def stop():
        if how == "interrupt":
            evaluator.interrupt()
        else:
            evaluator.terminate(skip_completed=how == "skip_completed")

    evaluator = evaluator_of(Network(stop), out)
    evaluator.run()
    assert given_back()
    if how == "interrupt":
        evaluator.run()  # a MONAI evaluator begins anew
        assert done(out) == COUNT
    else:
        assert done(out) == 3
    assert given_back()


@NUMBERS
@pytest.mark.parametrize("both", [False, True])
def test_a_validation_in_a_training(number, both, tmp_path):
    """The signal comes in the validation, whose batch is ended; both tables are there."""
    network = Network()
    inside = evaluator_of(network, tmp_path / "validation")
    handlers = [ValidationHandler(interval=1, validator=inside, epoch_level=True)]
    if both:
        handlers.append(mi.IFIMHandler(output_dir=tmp_path / "training", on_error="raise"))
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=3,
        train_data_loader=loader(),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 1e-3),
        loss_function=lambda output, label: output.square().mean(),
        train_handlers=handlers,
    )

    @inside.on(Events.ITERATION_STARTED(once=3))
    def _():
        send(number)

    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert inside.state.iteration == 3
    assert done(tmp_path / "validation") == 3
    assert given_back()


@NUMBERS
def test_one_at_the_very_end_is_raised_when_all_is_written(number, tmp_path):
    out = tmp_path / "out"
    evaluator = evaluator_of(Network(lambda: send(number), at=COUNT), out)
    with pytest.raises(KeyboardInterrupt):
        evaluator.run()
    assert done(out) == COUNT
    assert given_back()


def test_two_handlers_both_have_their_tables_when_an_error_ends_the_run(tmp_path):
    def fail():
        raise RuntimeError("no luck")

    second = mi.IFIMHandler(output_dir=tmp_path / "b", on_error="raise")
    evaluator = evaluator_of(Network(fail), tmp_path / "a", after=[second], on_error="raise")
    with pytest.raises(RuntimeError, match="no luck"):
        evaluator.run()
    # The second one runs a forward pass of its own, so that the third is that of the second batch.
    assert (done(tmp_path / "a"), done(tmp_path / "b")) == (1, 1)
    assert given_back()
