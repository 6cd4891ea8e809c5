"""Runs in this process, whole, in parts, or cut short."""

import json

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.scans import dataset, preprocessing


class Stop(Exception):
    """Ends a run, as a fault of the host would."""


class Loaded:
    """Notes which files come through."""

    def __init__(self):
        self.files = []

    def __call__(self, item):
        self.files.append(item["image"].meta["filename_or_obj"])
        return item


def run(
    files,
    out,
    shard=None,
    *,
    stop_after=None,
    size=1,
    seed=0,
    loader=mi.FaultTolerantDataLoader,
    shuffle=False,
    **options,
):
    """One run, or a part of it; the files that it loaded."""
    seen, transform = Loaded(), preprocessing()
    transform.transforms = (*transform.transforms, seen)
    save = mi.SaveComponentsd(["ifim_high", "ifim_orth"], out, transform=None)
    handler = mi.IFIMHandler(output_dir=out, postprocessing=save, shard=shard, **options)
    predictions = mi.PredictionSaver(
        out,
        class_names=["a", "b", "c"],
        output_transform=lambda items: [item["pred"].softmax(0) for item in items],
    )
    data = dataset(files, transform)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader(data, batch_size=size, num_workers=0, shuffle=shuffle),
        network=smooth_network(3, seed=seed),
        inferer=mi.IFIMInferer(),
        val_handlers=[handler, predictions],
    )
    if stop_after is None:
        evaluator.run()
        return seen.files

    def stop(engine):
        raise Stop

    evaluator.add_event_handler(Events.ITERATION_STARTED(once=stop_after + 1), stop)
    with pytest.raises(Stop):
        evaluator.run()
    return seen.files


def results(folder):
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and path.name != "run.json"
    }


def record(folder):
    return json.loads((folder / "run.json").read_text())
