"""Validation during training, and the handler on the trainer: training is not disturbed."""

import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.handlers import ValidationHandler
from torch import nn

import monai_ifim as mi
from _helpers.comparisons import assert_close
from _helpers.recorders import INFERERS
from _helpers.scans import dataset
from _helpers.tables import read_table


def trainable_network():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv3d(1, 4, 3),
            nn.BatchNorm3d(4),
            nn.ReLU(inplace=True),
            nn.Dropout(0.4),
            nn.AdaptiveAvgPool3d(2),
            nn.Flatten(),
            nn.Linear(32, 3),
        )


def train(files, evaluator_handlers=None, train_handlers=(), evaluator_options=None):
    """Three epochs; everything that training leaves behind.

    ``evaluator_handlers`` None means: no validation at all.
    """
    torch.manual_seed(11)
    network = trainable_network()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []

    class Losses:
        def attach(self, engine):
            engine.add_event_handler(
                "ITERATION_COMPLETED",
                lambda e: losses.append([float(item["loss"]) for item in e.state.output]),
            )

    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(dataset(files[:3]), batch_size=2),
        network=network,
        val_handlers=list(evaluator_handlers or ()) or None,
        **(evaluator_options or {}),
    )
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=3,
        train_data_loader=DataLoader(dataset(files), batch_size=2, shuffle=True),
        network=network,
        optimizer=optimizer,
        loss_function=nn.CrossEntropyLoss(),
        train_handlers=[ValidationHandler(1, evaluator), *train_handlers, Losses()],
    )
    trainer.run()
    moments = [
        {k: v.clone() if torch.is_tensor(v) else v for k, v in state.items()}
        for state in optimizer.state_dict()["state"].values()
    ]
    return {
        "state": {k: v.clone() for k, v in network.state_dict().items()},
        "moments": moments,
        "losses": losses,
        "random": torch.get_rng_state(),
        "flags": [p.requires_grad for p in network.parameters()],
        "grads": [p.grad.clone() for p in network.parameters()],
        "modes": [m.training for m in network.modules()],
    }


def assert_identical(run, reference):
    assert run["losses"] == reference["losses"]
    for key, value in reference["state"].items():
        assert torch.equal(run["state"][key], value), key
    for one, other in zip(run["moments"], reference["moments"], strict=True):
        assert all(torch.equal(torch.as_tensor(one[k]), torch.as_tensor(other[k])) for k in other)
    for one, other in zip(run["grads"], reference["grads"], strict=True):
        assert torch.equal(one, other)
    assert run["flags"] == reference["flags"]
    assert run["modes"] == reference["modes"]
    assert torch.equal(run["random"], reference["random"])


@INFERERS
def test_training_with_validation_is_bit_identical(files, tmp_path, inferer):
    reference = train(files)
    assert len(reference["losses"]) == 9
    assert reference["losses"][0] != reference["losses"][-1]
    options = {"inferer": inferer, "decollate": False}
    run = train(files, [mi.IFIMHandler(output_dir=tmp_path)], evaluator_options=options)
    assert_identical(run, reference)
    assert len(read_table(tmp_path)) == 3


def test_training_with_the_handler_on_the_trainer_is_bit_identical(files, tmp_path):
    reference = train(files)
    run = train(files, train_handlers=[mi.IFIMHandler(output_dir=tmp_path)])
    assert_identical(run, reference)
    assert [row["file"] for row in read_table(tmp_path)] == files


def test_training_in_every_iteration_serves_the_trainers_batches(files, tmp_path):
    """On the trainer the components are those of the weights before the step, in eval mode."""
    network = trainable_network()
    seen = []

    def expected(engine):
        image = engine.state.batch["image"].as_tensor()
        seen.append((mi.eigenspace(network, image).trace, engine.state.output["ifim_trace"]))

    class Compare:
        def attach(self, engine):
            engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, expected)

    SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=DataLoader(dataset(files), batch_size=2),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=nn.CrossEntropyLoss(),
        train_handlers=[mi.IFIMHandler(), Compare()],
    ).run()
    assert len(seen) == 6
    for one, other in seen:
        assert_close(other, one)
