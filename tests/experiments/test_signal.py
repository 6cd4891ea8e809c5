"""The controlled signal task against dense linear algebra, and its files against MONAI."""

import csv
import itertools
import math

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd

from monai_ifim.experiments import SignalDataset, SignalTask, signal_task, write_signal_images

LABELS = (("L", "R"), ("P", "A"), ("I", "S"))


def small_task(shape=(5, 7), classes=3, scale=1.0):
    """Random signals in a background with an anisotropic spectrum, every axis of another size."""
    generator = torch.Generator().manual_seed(3)
    signals = torch.randn(classes - 1, *shape, generator=generator, dtype=torch.float64)
    radius = torch.zeros(shape, dtype=torch.float64)
    for axis, size in enumerate(shape):
        frequency = torch.fft.fftfreq(size, dtype=torch.float64) * (axis + 1)
        radius = radius + frequency.square().view(
            [-1 if a == axis else 1 for a in range(len(shape))]
        )
    return SignalTask(scale * signals, 0.3 + 2 * torch.exp(-4 * radius))


def dense_covariance(task):
    """Covariance (N, N) from the spectrum by explicit cosine sums: no FFT involved."""
    places = np.array(list(itertools.product(*map(range, task.shape))))
    phases = 2 * np.pi * (places / np.array(task.shape)) @ places.T  # frequency x place
    power = task.power.flatten().numpy()
    real = np.cos(phases).T @ (power[:, None] * np.cos(phases))
    imaginary = np.sin(phases).T @ (power[:, None] * np.sin(phases))
    return torch.from_numpy((real + imaginary) / len(places))


@pytest.mark.parametrize("shape", [(5, 7), (2, 4, 3)])
def test_template_solves_the_dense_linear_system(shape):
    task = small_task(shape)
    covariance = dense_covariance(task)
    signals = task.signals.flatten(1)
    torch.testing.assert_close(covariance @ task.templates.flatten(1).T, signals.T)
    expected = signals @ torch.linalg.solve(covariance, signals.T)
    torch.testing.assert_close(task.gram, expected)
    torch.testing.assert_close(task.detectability, expected.diagonal().sqrt())


@pytest.mark.parametrize("shape", [(5, 7), (2, 4, 3)])
def test_ideal_logits_are_gaussian_log_density_ratios(shape):
    task = small_task(shape)
    images = task.sample([0, 1, 2, 1], torch.Generator().manual_seed(0))
    covariance = dense_covariance(task)
    means = torch.cat([torch.zeros_like(task.signals[:1]), task.signals]).flatten(1)
    densities = torch.stack(
        [
            torch.distributions.MultivariateNormal(mean, covariance).log_prob(
                images.flatten(1).double()
            )
            for mean in means
        ],
        dim=1,
    )
    torch.testing.assert_close(task.ideal_logits(images), densities - densities[:, :1])


@pytest.mark.parametrize("shape", [(4, 6), (5, 7), (2, 4, 3)])
def test_samples_have_the_stated_mean_and_covariance(shape):
    task = small_task(shape)
    count = 40_000
    images = task.sample(torch.full((count,), 2), torch.Generator().manual_seed(1))
    vectors = images.flatten(1).double()
    covariance = dense_covariance(task)
    variance = covariance.diagonal()
    # five standard errors of a mean, and of an entry of a sample covariance
    error = vectors.mean(dim=0) - task.signals[1].flatten()
    assert (error.abs() < 5 * (variance / count).sqrt()).all()
    spread = (variance[:, None] * variance + covariance.square()).div(count).sqrt()
    assert ((vectors.T.cov() - covariance).abs() < 5 * spread).all()


@pytest.mark.parametrize("name", ["2d", "3d"])
def test_bundle_tasks_have_unit_variance_and_the_stated_spectrum(name):
    task = signal_task(name)
    count = 100
    images = task.sample([0] * count, torch.Generator().manual_seed(2))[:, 0].double()
    axes = tuple(range(1, images.ndim))
    periodogram = torch.fft.fftn(images, dim=axes).abs().square().mean(dim=0) / images[0].numel()
    ratio = (periodogram / task.power).flatten()
    # every ratio has mean 1 and variance of at most 2 / count; bands from low to high frequency
    for band in task.power.flatten().argsort(descending=True).tensor_split(8):
        assert abs(ratio[band].mean() - 1) < 5 * math.sqrt(4 / count / len(band))
    assert abs(float(task.power.mean()) - 1) < 1e-12
    assert images.dtype == torch.float64
    assert task.sample([0], torch.Generator()).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "shape", "detectability"), [("2d", (64, 64), [2.0]), ("3d", (32,) * 3, [2.5, 2.5])]
)
def test_bundle_tasks_are_as_described_and_the_same_at_every_call(name, shape, detectability):
    task, again = signal_task(name), signal_task(name)
    assert task.shape == shape
    assert task.classes == len(detectability) + 1
    torch.testing.assert_close(task.detectability, torch.tensor(detectability).double())
    assert torch.equal(task.signals, again.signals)
    assert torch.equal(task.power, again.power)
    peaks = {int(signal.argmax()) for signal in task.signals}
    assert len(peaks) == task.classes - 1


@pytest.mark.parametrize("classes", [2, 3])
def test_ideal_accuracy_is_what_the_ideal_logits_reach(classes):
    task = small_task(classes=classes, scale=0.3)
    labels = torch.arange(60_000) % classes
    images = task.sample(labels, torch.Generator().manual_seed(4))
    reached = (task.ideal_logits(images).argmax(dim=1) == labels).double()
    accuracy = task.ideal_accuracy(draws=300_000)
    error = math.hypot(float(reached.std()) / math.sqrt(len(reached)), accuracy.standard_error)
    assert 0.6 < accuracy.value < 0.95
    assert abs(float(reached.mean()) - accuracy.value) < 4 * error


def test_stated_standard_error_is_the_spread_over_seeds():
    task = small_task(scale=0.3)
    runs = [task.ideal_accuracy(draws=3000, seed=seed) for seed in range(200)]
    spread = np.std([run.value for run in runs], ddof=1)
    stated = np.mean([run.standard_error for run in runs])
    assert 0.8 < spread / stated < 1.25


def test_ideal_observer_of_two_classes_is_exact():
    accuracy = signal_task("2d").ideal_accuracy()
    assert accuracy.value == pytest.approx(torch.distributions.Normal(0, 1).cdf(torch.tensor(1.0)))
    assert accuracy.standard_error == 0


def test_dataset_items_depend_on_seed_and_index_alone():
    task = small_task()
    forwards = list(SignalDataset(task, 6, seed=5))
    other_order = SignalDataset(task, 600, seed=5)
    for index in (3, 0, 5, 1):
        assert torch.equal(other_order[index]["image"], forwards[index]["image"])
    assert torch.equal(SignalDataset(task, 6, seed=5)[-1]["image"], forwards[5]["image"])
    assert [item["label"] for item in forwards] == [0, 1, 2, 0, 1, 2]
    assert forwards[0]["image"].shape == (1, 5, 7)
    images = [item["image"] for item in (*forwards, *SignalDataset(task, 6, seed=6))]
    assert len({tuple(image.flatten().tolist()) for image in images}) == 12


def test_drawing_leaves_the_global_random_state_alone(tmp_path):
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    dataset = SignalDataset("3d", 4, seed=0)
    assert dataset[1]["image"].shape == (1, 32, 32, 32)
    dataset.task.ideal_accuracy(draws=30)
    write_signal_images(small_task(), tmp_path, 2, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")
@pytest.mark.parametrize("shape", [(12, 17), (5, 7, 11)])
def test_files_read_with_monai_are_the_samples(tmp_path, shape):
    task, count, seed = small_task(shape), 24, 9
    table = write_signal_images(task, tmp_path / "images", count, seed)
    steps = [LoadImaged("file"), EnsureChannelFirstd("file")]
    if len(shape) == 3:
        steps.append(Orientationd("file", axcodes="RAS", labels=LABELS))
    load = Compose(steps)
    dataset = SignalDataset(task, count, seed)
    with table.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == count
    orientations = set()
    for row, sample in zip(rows, dataset, strict=False):
        path = table.parent / row["file"]
        image = load({"file": str(path)})["file"]
        assert torch.equal(image.as_tensor(), sample["image"])
        assert int(row["label"]) == sample["label"]
        stored = nib.load(path)
        assert stored.ndim == len(shape)
        orientations.add("".join(nib.aff2axcodes(stored.affine)))
    assert len(orientations) > 4 if len(shape) == 3 else orientations == {"RAS"}
    names = sorted(path.name for path in table.parent.iterdir())
    assert names == ["labels.csv", *(row["file"] for row in rows)]


@pytest.mark.parametrize("shape", [(4, 6), (2, 4, 3)])
def test_affines_are_oblique_and_unequally_spaced(tmp_path, shape):
    table = write_signal_images(small_task(shape), tmp_path, 8, seed=1)
    affines = [nib.load(path).affine for path in table.parent.glob("*.nii.gz")]
    assert len({affine.tobytes() for affine in affines}) == 8
    for affine in affines:
        spacing = nib.affines.voxel_sizes(affine)
        assert np.diff(np.sort(spacing)).min() > 0.05
        cosines = affine[:3, :3] / spacing
        np.testing.assert_allclose(cosines.T @ cosines, np.eye(3), atol=1e-6)
        assert nib.affines.obliquity(affine).min() > np.deg2rad(1)


def test_files_are_the_same_bytes_at_every_call(tmp_path):
    one = write_signal_images(small_task(), tmp_path / "one", 3, seed=2).parent
    two = write_signal_images(small_task(), tmp_path / "two", 3, seed=2).parent
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes()


def test_an_interrupted_file_never_bears_its_final_name(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_signal_images(small_task(), tmp_path, 1, seed=0)
    assert not list(tmp_path.glob("*.nii.gz"))
    assert not list(tmp_path.glob("*.csv"))


def test_errors_say_what_was_expected_and_how_to_fix_it():
    task = small_task()
    with pytest.raises(ValueError, match=r"expected labels from 0 to 2.*background alone"):
        task.sample([3], torch.Generator())
    with pytest.raises(ValueError, match=r"expected images \(B, 1, 5, 7\), got \(2, 5, 7\)"):
        task.ideal_logits(torch.zeros(2, 5, 7))
    with pytest.raises(ValueError, match=r"expected a task in \['2d', '2d_four', .*, got '4d'"):
        signal_task("4d")
    with pytest.raises(ValueError, match="length 0"):
        SignalDataset(task, 0, seed=0)
    with pytest.raises(IndexError, match="below 2, got 2"):
        SignalDataset(task, 2, seed=0)[2]
    with pytest.raises(ValueError, match=r"expected signals \(K - 1, 5, 7\), got \(5, 7\)"):
        SignalTask(task.signals[0], task.power)
    with pytest.raises(ValueError, match="convert them with"):
        SignalTask(task.signals.float(), task.power)
    with pytest.raises(ValueError, match="add white noise"):
        SignalTask(task.signals, task.power - task.power.min())
    skewed = task.power.clone()
    skewed[1, 2] += 1
    with pytest.raises(ValueError, match=r"power\(f\) = power\(-f\)"):
        SignalTask(task.signals, skewed)


def test_only_images_and_volumes_have_a_geometry(tmp_path):
    line = SignalTask(torch.ones(1, 8).double(), torch.ones(8).double())
    with pytest.raises(ValueError, match="2 or 3 spatial dimensions"):
        write_signal_images(line, tmp_path, 1, seed=0)
