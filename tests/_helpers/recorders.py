"""MONAI's evaluator, and what it has put out for each image."""

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator

import monai_ifim as mi

INFERERS = pytest.mark.parametrize("inferer", [mi.IFIMInferer(), None], ids=["shared", "own"])


class Recorder:
    """Keeps what an engine has put out for each image, at the end of every iteration."""

    def __init__(self):
        self.items = []

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._record)

    def _record(self, engine):
        output = engine.state.output
        self.items.extend(output if isinstance(output, list) else [output])


def evaluate(network, loader, handler=None, **options):
    """Run a MONAI evaluator on the CPU.

    Returns:
        The evaluator and what it has put out for each image.
    """
    recorder = Recorder()
    handlers = [recorder] if handler is None else [handler, recorder]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=network,
        val_handlers=[*handlers, *options.pop("more_handlers", [])],
        **options,
    )
    evaluator.run()
    return evaluator, recorder.items


def count_forwards(network):
    """A list that grows by one with each forward pass."""
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    return calls
