"""The verified distance to another answer: as a plain call, and as a question of the handler."""

import logging
import math
import os
import subprocess
import sys

import nibabel as nib
import pytest
import torch
from monai.data import DataLoader
from torch import nn

import monai_ifim as mi
from _helpers.comparisons import assert_close
from _helpers.networks import smooth_network
from _helpers.recorders import evaluate
from _helpers.scans import dataset, preprocessing
from _helpers.tables import read_table
from _helpers.untouched import assert_untouched, snapshot

pytest.importorskip("foolbox", reason="an extra: pip install 'monai_ifim[adversarial]'")


def affine(outputs, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(132, outputs))


@pytest.mark.parametrize("search", ["ddn", "pgd"])
@pytest.mark.parametrize(
    ("outputs", "options"),
    [
        (2, {}),
        (5, {}),
        (1, {"likelihood": "bernoulli"}),
        (4, {"likelihood": "bernoulli"}),
        (5, {"classes": [1, 3, 4]}),
    ],
)
@pytest.mark.parametrize("unit", [1e-3, 1.0, 1000.0])
def test_of_an_affine_classifier_it_is_the_first_order_distance(search, outputs, options, unit):
    network, images = affine(outputs), unit * torch.randn(6, 1, 12, 11)
    network[1].weight.data /= unit
    found = mi.verified_flip(network, images, search=search, **options)
    flips = mi.eigenspace(network, images, **options).flip_distance()
    torch.testing.assert_close(found.distance, flips.distance, rtol=2e-2, atol=0)
    assert (found.distance > 0.999 * flips.distance).all()  # smaller there is none
    assert found.index.tolist() == flips.index.tolist()
    lengths = (found.images - images).flatten(1).double().norm(dim=1)
    torch.testing.assert_close(found.distance, lengths, rtol=1e-4, atol=0)


@pytest.mark.parametrize("groups", [[[0], [1, 2]], [[0, 1], [2, 3, 4]]])
def test_merged_classes(groups):
    network, images = affine(5), torch.randn(6, 1, 12, 11)
    family = mi.Categorical().merged(groups)
    found = mi.verified_flip(network, images, groups=groups)
    before, after = family.predicted(network(images)), family.predicted(network(found.images))
    assert (before != after).all()
    assert after.tolist() == found.index.tolist()
    ratio = found.distance / found.first_order
    assert 0.7 < ratio.min() <= ratio.max() < 1.6


@pytest.mark.parametrize("dims", [2, 3])
def test_the_image_just_beyond_has_the_answer_and_a_bit_less_has_not(dims):
    torch.manual_seed(0)
    network = smooth_network(dims)
    images = 2 * torch.randn(4, 1, *(13, 11, 9)[:dims])
    found = mi.verified_flip(network, images)
    before = network(images).argmax(dim=1)
    there = torch.isfinite(found.distance)
    assert there.any()
    assert network(found.images)[there].argmax(dim=1).tolist() == found.index[there].tolist()
    almost = images + 0.99 * (found.images - images)
    assert network(almost)[there].argmax(dim=1).tolist() == before[there].tolist()
    both = [found, mi.verified_flip(network, images, search="pgd")]
    ratio = both[1].distance[there] / both[0].distance[there]
    assert 0.9 < ratio.min() <= ratio.max() < 1.1


def test_bounds():
    network, images = affine(3), torch.rand(5, 1, 12, 11)
    network[1].bias.data = torch.tensor([3.0, 0.0, 0.0])  # far from the boundary
    unbounded = mi.verified_flip(network, images).distance
    least, largest = images.flatten(1).amin(1), images.flatten(1).amax(1)
    for bounds, low, high in (("image", least, largest), ((0.0, 1.0), 0, 1)):
        found = mi.verified_flip(network, images, bounds=bounds)
        there = torch.isfinite(found.distance)
        assert there.any()
        values = found.images.flatten(1)
        assert (values.amin(1) >= low - 1e-6)[there].all()
        assert (values.amax(1) <= high + 1e-6)[there].all()
        assert (found.distance >= 0.999 * unbounded).all()
        assert (found.distance[there] > 1.001 * unbounded[there]).any()


def test_an_answer_that_cannot_be_reached_is_none():
    """Within [0, 1] every logit stays on its side."""
    network, images = affine(2), torch.rand(3, 1, 12, 11)
    network[1].weight.data *= 1e-3
    network[1].bias.data = torch.tensor([5.0, 0.0])
    found = mi.verified_flip(network, images, bounds=(0.0, 1.0))
    assert found.distance.tolist() == [math.inf] * 3
    assert found.index.tolist() == [-1] * 3
    assert found.images.isnan().all()
    assert torch.isfinite(found.first_order).all()


def test_a_network_that_does_not_react():
    network = affine(2)
    network[1].weight.data.zero_()
    found = mi.verified_flip(network, torch.rand(2, 1, 12, 11))
    assert found.distance.tolist() == [math.inf] * 2


def test_nothing_is_disturbed_and_the_same_comes_twice():
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU(), nn.Flatten(),
        nn.Linear(360, 3),
    ).train()  # fmt: skip
    images = torch.randn(4, 1, 12, 11)
    before, state = snapshot(network, images), torch.get_rng_state()
    variable = os.environ.get("GIT_PYTHON_REFRESH")
    with torch.inference_mode():
        first = mi.verified_flip(network, images)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    second = mi.verified_flip(network, images)
    assert torch.equal(first.distance, second.distance)
    torch.set_rng_state(state)
    assert_untouched(before, network, images)
    assert os.environ.get("GIT_PYTHON_REFRESH") == variable
    assert all(p.grad is None for p in network.parameters())


def test_in_the_handler(files, tmp_path):
    network, data = smooth_network(3), dataset(files)
    save = mi.SaveComponentsd(["ifim_high", "ifim_flipped"], tmp_path, transform=preprocessing())
    question = mi.VerifiedFlip()
    handler = mi.IFIMHandler(output_dir=tmp_path, questions=[question], postprocessing=save)
    _, items = evaluate(network, DataLoader(data, batch_size=2), handler)
    images = torch.stack([item["image"].as_tensor() for item in data])
    found = mi.verified_flip(network, images)
    for i, (row, item) in enumerate(zip(read_table(tmp_path), items, strict=True)):
        assert row["status"] == "ok"
        assert float(row["verified_distance"]) == pytest.approx(found.distance[i].item(), rel=1e-3)
        assert row["verified_class"] == str(found.index[i].item())
        assert row["verified_by"] == "ddn, 20 steps"
        assert_close(item["ifim_flipped"] / 10, found.images[i] / 10)
        (file,) = tmp_path.glob(f"scan{i}_ifim_flipped.nii.gz")
        source, written = nib.load(files[i]), nib.load(file)
        assert written.shape == source.shape
        torch.testing.assert_close(
            torch.as_tensor(written.affine), torch.as_tensor(source.affine), atol=1e-5, rtol=0
        )
        assert bytes(written.header["descrip"]).startswith(b"iFIM flipped; ")


class WithAge(nn.Module):
    """The further input decides how far the boundary is."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Linear(13 * 11 * 9, 2)

    def forward(self, image, age):
        logits = self.image(image.flatten(1))
        return logits + torch.stack([age, -age], dim=1)


def test_further_inputs_are_held_fixed(files, tmp_path):
    from monai.engines import PrepareBatchExtraInput

    ages = [0.5, 1.0, 2.0, 3.0, 4.0]
    data = [
        {**item, "age": torch.tensor(age)} for item, age in zip(dataset(files), ages, strict=True)
    ]
    network = WithAge()
    prepare = PrepareBatchExtraInput({"age": "age"})
    handler = mi.IFIMHandler(output_dir=tmp_path, questions=[mi.VerifiedFlip()])
    evaluate(network, DataLoader(data, batch_size=2), handler, prepare_batch=prepare)
    for row in read_table(tmp_path):
        ratio = float(row["verified_distance"]) / float(row["flip_distance"])
        assert ratio == pytest.approx(1, abs=0.02)
        assert row["verified_class"] == row["flip_class"]


def test_an_image_without_an_answer_is_not_written(files, tmp_path, caplog):
    network = nn.Sequential(nn.Flatten(), nn.Linear(13 * 11 * 9, 2))
    network[1].weight.data *= 1e-4
    network[1].bias.data = torch.tensor([5.0, 0.0])
    question = mi.VerifiedFlip(bounds="image")
    save = mi.SaveComponentsd(["ifim_flipped"], tmp_path, transform=preprocessing())
    handler = mi.IFIMHandler(output_dir=tmp_path, questions=[question], postprocessing=save)
    with caplog.at_level(logging.ERROR):
        evaluate(network, DataLoader(dataset(files)[:1], batch_size=1), handler)
    (row,) = read_table(tmp_path)
    assert (row["status"], row["verified_distance"], row["verified_class"]) == ("ok", "", "")
    assert not list(tmp_path.glob("*_ifim_flipped*"))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"method": "cw"}, "expected method from"),
        ({"steps": 0}, "expected steps >= 1"),
        ({"bounds": (1.0, 0.0)}, "two rising numbers"),
        ({"bounds": "scan"}, "two rising numbers"),
    ],
)
def test_impossible_choices(choices, message):
    with pytest.raises(ValueError, match=message):
        mi.VerifiedFlip(**choices)


def test_images_outside_the_bounds():
    with pytest.raises(ValueError, match="expected images within the bounds"):
        mi.verified_flip(affine(2), torch.randn(2, 1, 12, 11), bounds=(0.0, 1.0))


def test_a_regression_has_no_other_answer():
    with pytest.raises(ValueError, match="expected a classifier with one answer per image"):
        mi.verified_flip(affine(1), torch.randn(2, 1, 12, 11), likelihood=mi.Gaussian(1.0))


def test_without_foolbox(monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'monai_ifim\[adversarial\]'"):
        mi.VerifiedFlip()


def test_without_the_program_git():
    """GitPython, which foolbox imports, refuses to be imported on a machine without git."""
    code = "import monai_ifim as mi; print(mi.VerifiedFlip())"
    environment = {k: v for k, v in os.environ.items() if k != "GIT_PYTHON_REFRESH"}
    environment["PATH"] = "/nonexistent"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "method='ddn'" in done.stdout, done.stderr


def test_by_what_a_configuration_says(tmp_path):
    assert mi.chosen_questions(verify="", folder=tmp_path) == []
    assert mi.chosen_questions(verify="pgd") == [mi.VerifiedFlip("pgd")]
    given = {"method": "ddn", "steps": 50, "bounds": "image"}
    assert mi.chosen_questions(verify=given) == [mi.VerifiedFlip("ddn", 50, "image")]
    for wrong in ({"way": "ddn"}, True):
        with pytest.raises(ValueError, match="expected 'ddn', 'pgd', or method, steps, bounds"):
            mi.chosen_questions(verify=wrong)


def test_of_a_regression_the_run_ends_with_a_sentence(files):
    network = nn.Sequential(nn.Flatten(), nn.Linear(13 * 11 * 9, 1))
    handler = mi.IFIMHandler(questions=[mi.VerifiedFlip()], likelihood=mi.Gaussian(1.0))
    with pytest.raises(KeyError, match="expected a classifier with one answer per image"):
        evaluate(network, DataLoader(dataset(files), batch_size=2), handler)


def test_a_perturbation_whose_changes_the_search_does_not_know(tmp_path):
    mask = mi.Mask(torch.ones(1, 12, 11))
    with pytest.raises(ValueError, match="expected all changes of the images for a verified"):
        mi.verified_flip(affine(3), torch.randn(2, 1, 12, 11), perturbation=mask)
    handler = mi.IFIMHandler(questions=[mi.VerifiedFlip()], perturbation=mask)
    data = [{"image": torch.randn(1, 12, 11)} for _ in range(2)]
    with pytest.raises(KeyError, match="expected all changes of the images for a verified"):
        evaluate(affine(3), DataLoader(data, batch_size=2), handler)


@pytest.mark.parametrize("size", [1, 2])
def test_the_image_beyond_is_there_for_whoever_writes_it(size, tmp_path):
    """Also in a batch in which no image has a result."""
    data = [{"image": torch.randn(1, 12, 11)} for _ in range(4)]
    data[1]["image"][:] = math.nan
    handler = mi.IFIMHandler(output_dir=tmp_path, questions=[mi.VerifiedFlip()])
    _, found = evaluate(affine(3), DataLoader(data, batch_size=size), handler)
    finite = [bool(torch.isfinite(item["ifim_flipped"]).all()) for item in found]
    assert finite == [True, False, True, True]
