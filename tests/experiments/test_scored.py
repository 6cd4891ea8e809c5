"""Images that are scored: corrupted ones, and those of another kind."""

import numpy as np
import torch
from scipy.stats import kurtosis

from monai_ifim.experiments.tasks.catalogue import load_task
from monai_ifim.experiments.tasks.labelled import Split, Task
from monai_ifim.experiments.uses.scored import foreign_images, no_foreign_images, scored_images


def test_the_other_background_is_foreign():
    lumpy = foreign_images(load_task("signal_2d", train=4, test=4), 300)
    gaussian = foreign_images(load_task("lumpy_2d", train=4, test=4), 300)
    assert [*lumpy, *gaussian] == ["lumpy background", "Gaussian background"]
    tails = [
        float(kurtosis(next(iter(found.values())).flatten().numpy())) for found in (lumpy, gaussian)
    ]
    assert tails[0] > 0.3
    assert abs(tails[1]) < 0.1
    volumes = foreign_images(load_task("signal_3d", train=3, test=3), 2)
    assert next(iter(volumes.values())).shape == (2, 1, 32, 32, 32)


def clinical(name):
    split = Split(torch.rand(4, 1, 32, 32), torch.tensor([0, 1, 0, 1]))
    return Task(name, ("a", "b"), "", split, split)


def brighter_by_class(file, classes, count):
    """A data set whose pictures have a bright bar, as long as the class's number says."""
    labels = np.arange(count)[:, None] * classes // count
    pictures = np.zeros((count, 64, 64), dtype=np.uint8)
    bar = np.arange(64) < 8 * labels
    pictures[:, :16] = 255 * bar[:, None]
    pictures[:, -8:] = 255  # never constant
    parts = ("train", "val", "test")
    images = {f"{part}_images": pictures for part in parts}
    file.parent.mkdir(exist_ok=True)
    np.savez(file, **images, **{f"{part}_labels": labels for part in parts})


def test_other_kinds_of_image_are_foreign_to_chest_radiographs(tmp_path):
    """MedNIST has radiographs of the chest as its third class; they are not foreign."""
    names = ("pneumoniamnist", "mednist", "hippocampus")
    assert all(foreign_images(clinical(name), 5, tmp_path) == {} for name in names)
    assert foreign_images(clinical("pneumoniamnist"), 5) == {}
    assert "expected images of mednist" in no_foreign_images(clinical("pneumoniamnist"))
    assert "hippocampus: no data set" in no_foreign_images(clinical("hippocampus"))
    brighter_by_class(tmp_path / "pneumoniamnist.npz", 2, 9)
    brighter_by_class(tmp_path / "mednist6_64" / "mednist6_64.npz", 6, 60)
    (found,) = foreign_images(clinical("pneumoniamnist"), 20, tmp_path).values()
    assert found.shape == (20, 1, 32, 32)
    shown = (32 * found.mean(dim=(1, 2, 3)) - 4).round().long()
    assert shown.bincount().tolist() == [4, 4, 0, 4, 4, 4]
    assert len(foreign_images(clinical("pneumoniamnist"), 80, tmp_path)["mednist"]) == 50
    assert foreign_images(clinical("mednist"), 20, tmp_path) == {}


def test_corrupted_images_are_those_that_are_scored():
    task = load_task("signal_2d", train=30, test=20)
    scored = scored_images(task, 10, ["blur"], 0)
    assert list(scored.images) == ["clean", "blur", "lumpy background"]
    assert all(each.shape == (10, 1, 32, 32) for each in scored.images.values())
    spectra = [torch.fft.rfft(scored.images[n]).abs()[..., -4:].mean() for n in ("clean", "blur")]
    assert spectra[1] < 0.1 * spectra[0]
