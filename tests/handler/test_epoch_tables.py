"""Several epochs of one handler: a table for each, and that of the last one where it always is."""

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.recorders import evaluate
from _helpers.scans import dataset
from _helpers.tables import read_table


@pytest.fixture
def validation(files, tmp_path):
    """A validation, whose weights change before each epoch, as a function of its number."""
    network = smooth_network(3)
    handler = mi.IFIMHandler(output_dir=tmp_path, volumes=[])
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(dataset(files[:3]), batch_size=2),
        network=network,
        val_handlers=[handler],
    )

    def validate(epoch):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.1)
        evaluator.run(epoch)
        return read_table(tmp_path)

    validate.evaluator = evaluator
    return validate


def epochs(folder):
    return sorted(path.name for path in folder.glob("ifim*.csv"))


def test_one_table_for_each_epoch(validation, tmp_path):
    first = validation(5)
    assert epochs(tmp_path) == ["ifim.csv"]  # as any single run
    second, third = validation(10), validation(15)
    names = ["ifim.csv", *(f"ifim_epoch_00{n}.csv" for n in ("05", "10", "15"))]
    assert epochs(tmp_path) == names
    assert [read_table(tmp_path, name) for name in names] == [third, first, second, third]
    assert first != second != third


def test_the_same_epoch_again_has_one_table(validation, tmp_path):
    assert validation(1) != validation(1)
    assert epochs(tmp_path) == ["ifim.csv"]


def test_a_second_training_of_the_handler_has_no_tables_of_the_first(validation, tmp_path):
    for epoch in (1, 2, 3, 1):
        validation(epoch)
    assert epochs(tmp_path) == ["ifim.csv"]
    validation(2)
    assert epochs(tmp_path) == ["ifim.csv", "ifim_epoch_0001.csv", "ifim_epoch_0002.csv"]


def test_an_epoch_that_is_cut_short_leaves_those_before(validation, tmp_path):
    first = validation(1)

    def fail(engine):
        raise RuntimeError("the disk is full")

    validation.evaluator.add_event_handler(Events.ITERATION_COMPLETED, fail)
    with pytest.raises(RuntimeError, match="disk"):
        validation(2)
    assert read_table(tmp_path, "ifim_epoch_0001.csv") == first
    assert "the disk is full" in str(read_table(tmp_path, "ifim_epoch_0002.csv")[-1]["status"])


def test_another_training_moves_them_aside(validation, files, tmp_path):
    for epoch in (1, 2):
        validation(epoch)
    other = mi.IFIMHandler(output_dir=tmp_path, volumes=[], rank=1, existing="move")
    evaluate(smooth_network(3), DataLoader(dataset(files[:3]), batch_size=2), other)
    assert epochs(tmp_path) == ["ifim.csv"]
    (earlier,) = tmp_path.glob("earlier-*")
    assert epochs(earlier) == ["ifim.csv", "ifim_epoch_0001.csv", "ifim_epoch_0002.csv"]
