"""Images that are scored: corrupted ones, and those of another kind."""

import numpy as np
import torch
from scipy.stats import kurtosis

from monai_ifim.experiments.tasks.catalogue import load_task
from monai_ifim.experiments.tasks.labelled import Split, Task
from monai_ifim.experiments.uses.scored import foreign_images, scored_images


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


def test_chest_radiographs_are_foreign_to_mednist(tmp_path):
    assert foreign_images(clinical("mednist"), 5, tmp_path) == {}
    assert foreign_images(clinical("mednist"), 5) == {}
    assert foreign_images(clinical("hippocampus"), 5, tmp_path) == {}
    random = np.random.default_rng(0)
    pictures = random.integers(0, 255, size=(9, 28, 28), dtype=np.uint8)
    arrays = {
        f"{part}_{kind}": value
        for part in ("train", "val", "test")
        for kind, value in (("images", pictures), ("labels", np.arange(9)[:, None] % 2))
    }
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays)
    found = foreign_images(clinical("mednist"), 5, tmp_path)
    assert {name: tuple(each.shape) for name, each in found.items()} == {
        "pneumoniamnist": (5, 1, 32, 32)
    }


def test_corrupted_images_are_those_that_are_scored():
    task = load_task("signal_2d", train=30, test=20)
    scored = scored_images(task, 10, ["blur"], 0)
    assert list(scored.images) == ["clean", "blur", "lumpy background"]
    assert all(each.shape == (10, 1, 32, 32) for each in scored.images.values())
    spectra = [torch.fft.rfft(scored.images[n]).abs()[..., -4:].mean() for n in ("clean", "blur")]
    assert spectra[1] < 0.1 * spectra[0]
