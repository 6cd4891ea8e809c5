"""Controlled and clinical tasks: what their images are, and where they come from."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_ifim.experiments import signal_task
from monai_ifim.experiments.tasks.catalogue import TASKS, load_task
from monai_ifim.experiments.tasks.clinical import CLINICAL, MissingDataError
from monai_ifim.experiments.tasks.lumpy import LumpyTask, lumpy_task


def test_lumpy_background_has_the_moments_of_the_gaussian_one():
    task = lumpy_task("2d_small")
    images = task.sample(torch.zeros(6000, dtype=torch.long), torch.Generator().manual_seed(0))
    values = images[:, 0].double()
    assert abs(float(values.mean())) < 0.03
    measured = torch.fft.fftn(values, dim=(1, 2)).abs().square().mean(dim=0) / values[0].numel()
    # A mean of 6000 periodograms scatters by 1.3 % at each frequency, lumps by somewhat more.
    ratio = measured / task.power
    assert abs(float(ratio.mean()) - 1) < 0.01
    assert float((ratio - 1).abs().max()) < 0.2
    torch.testing.assert_close(task.templates, signal_task("2d_small").templates)


def test_lumpy_background_is_not_gaussian():
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(2000, dtype=torch.long)
    skewness = {}
    for name, task in {
        "lumpy": lumpy_task("2d_small"),
        "Gaussian": signal_task("2d_small"),
    }.items():
        values = task.sample(labels, generator).flatten()
        skewness[name] = float(((values - values.mean()) / values.std()).pow(3).mean())
    assert skewness["lumpy"] > 0.3
    assert abs(skewness["Gaussian"]) < 0.05


def test_lumpy_signal_is_added():
    task = lumpy_task("2d_four")
    draw = [task.sample([label], torch.Generator().manual_seed(7)) for label in range(4)]
    for label in (1, 2, 3):
        difference = (draw[label] - draw[0])[0, 0]
        torch.testing.assert_close(difference, task.signals[label - 1].float(), rtol=0, atol=1e-5)


def test_no_lumps():
    task = signal_task("2d_small")
    with pytest.raises(ValueError, match="expected a rate above 0, got 0"):
        LumpyTask(task.signals, task.power, rate=0)


@pytest.mark.parametrize("name", ["signal_2d", "signal_2d_four", "lumpy_2d"])
def test_controlled_tasks(name):
    task = load_task(name, train=60, test=40)
    assert task.shape == (1, 32, 32)
    assert len(task.train) == 60
    assert task.train.labels.bincount().tolist() == [60 // len(task.classes)] * len(task.classes)
    assert task.templates.shape == (1, len(task.classes) - 1, 1, 32, 32)
    assert task.digest() == load_task(name, train=60, test=40).digest()
    assert task.digest() != load_task(name, train=61, test=40).digest()
    # No test image is a training image.
    assert float(torch.cdist(task.test.images.flatten(1), task.train.images.flatten(1)).min()) > 1


def test_the_ideal_observer_decides_on_these_images():
    task = load_task("signal_2d", train=1, test=3000)
    correct = (
        task.signal.ideal_logits(task.test.images).argmax(dim=1) == task.test.labels
    ).double()
    assert abs(float(correct.mean()) - task.signal.ideal_accuracy().value) < 0.02


def write_archive(path, shape, classes, count):
    random = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = random.integers(0, 256, (count, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % classes)[:, None]
    np.savez(path, **arrays)
    return arrays


def test_clinical_pictures(tmp_path):
    arrays = write_archive(tmp_path / "pneumoniamnist.npz", (28, 28), 2, 20)
    task = load_task("pneumoniamnist", train=10, test=20, data=tmp_path)
    assert len(task.train) == 10
    assert task.shape == (1, 32, 32)
    assert task.train.images.min() == 0
    assert task.train.images.max() == 1
    assert task.test.labels.tolist() == arrays["test_labels"].ravel().tolist()
    inner = task.test.images[3, 0, 2:30, 2:30]
    given = arrays["test_images"][3].astype(np.float32)
    expected = (given - given.min()) / (given.max() - given.min())
    np.testing.assert_allclose(inner.numpy(), expected.T, atol=1e-6)


def test_clinical_volumes_and_sizes(tmp_path):
    (tmp_path / "hippo3d_dev").mkdir()
    write_archive(tmp_path / "hippo3d_dev" / "hippo3d_dev.npz", (20, 18, 16), 3, 6)
    task = load_task("hippocampus", train=6, test=6, data=tmp_path)
    assert task.shape == (1, 20, 18, 16)
    smaller = load_task("hippocampus", train=6, test=6, data=tmp_path, size=12)
    assert smaller.shape == (1, 12, 12, 12)
    with pytest.raises(ValueError, match="unknown"):
        _ = task.templates


@pytest.mark.parametrize(
    "name", [name for name in TASKS if "_2d" not in name and "_3d" not in name]
)
def test_data_that_are_not_there(name, tmp_path):
    for data in (tmp_path, None):
        with pytest.raises(MissingDataError, match=r"docs/experiments\.md"):
            load_task(name, train=1, test=1, data=data)


def test_the_bar_is_of_what_its_source_cites():
    """MONAI's tutorial gives an accuracy, the tables of MedMNIST give an AUC."""
    for name, source in CLINICAL.items():
        cited = "accuracy" if name == "mednist" else "auc"
        found = source.bar and source.bar.described()
        assert found is None or set(found) == {cited, "source"}
    assert [name for name, source in CLINICAL.items() if source.bar is None] == ["hippocampus"]
    for file in (Path(__file__).parents[2] / "docs").glob("*/*mednist/results.json"):
        task = json.loads(file.read_text("utf-8"))["task"]
        assert task["bar"] == CLINICAL["mednist"].bar.described()


def test_impossible_tasks():
    with pytest.raises(ValueError, match="expected a task in"):
        load_task("retina", train=1, test=1)
    with pytest.raises(ValueError, match="at least one image"):
        load_task("signal_2d", train=0, test=1)
