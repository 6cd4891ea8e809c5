"""A file that cannot be read leaves the other images alone."""

import csv
import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler
from monai.transforms import Compose, RandFlipd, RandGaussianNoised
from torch import nn

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.recorders import Recorder
from _helpers.scans import dataset, preprocessing, unreadable, write_scans
from monai_ifim.data.loaders import Failure, reason

# MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

STATUS = "failed: "


@pytest.fixture
def files(tmp_path):
    return write_scans(tmp_path / "scans", 3, count=10)


def read_table(folder):
    with (folder / "ifim.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class Batches:
    """Names of the files in each batch that the engine processed."""

    def __init__(self):
        self.names = []

    def attach(self, engine):
        engine.add_event_handler("FORWARD_COMPLETED", self._note)

    def _note(self, engine):
        self.names.append(engine.state.output["image"].meta["filename_or_obj"])


def run(files, folder, fail_at_end=True, epochs=1, metrics=None, **options):
    """An evaluator over the files.

    Returns:
        Names of each batch, one row for each image, what the engine has put out.
    """
    loader = mi.FaultTolerantDataLoader(dataset(files), **options)
    batches, recorder = Batches(), Recorder()
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=smooth_network(3),
        inferer=mi.IFIMInferer(),
        val_handlers=[
            mi.IFIMHandler(output_dir=folder, fail_at_end=fail_at_end, metrics=metrics),
            batches,
            recorder,
        ],
    )
    error = None
    for _ in range(epochs):
        try:
            evaluator.run()
        except RuntimeError as caught:
            error = caught
    return batches.names, read_table(folder), recorder.items, error, evaluator


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 10])
@pytest.mark.parametrize("bad", [0, 4, 9], ids=["first", "middle", "last"])
def test_one_unreadable_file_among_ten(files, tmp_path, bad, batch_size, num_workers):
    unreadable(files[bad])
    good = [f for i, f in enumerate(files) if i != bad]
    names, rows, items, error, _ = run(
        files, tmp_path, batch_size=batch_size, num_workers=num_workers
    )
    # Each image exactly once, in order, and the engine saw no more iterations than batches.
    assert [name for batch in names for name in batch] == good
    assert [item["ifim_high"].meta["filename_or_obj"] for item in items] == good
    assert [row["file"] for row in rows] == files
    assert [row["status"] == "ok" for row in rows] == [i != bad for i in range(10)]
    assert rows[bad]["status"].startswith(STATUS)
    assert len(rows[bad]["status"]) > len(STATUS) + 10
    assert "\n" not in rows[bad]["status"]
    assert rows[bad]["trace"] == ""
    assert isinstance(error, RuntimeError)
    assert str(error).startswith("1 of 10 images have no result")
    assert files[bad] in str(error)


def test_a_missing_file_has_a_reason_that_says_so(files, tmp_path):
    gone = files[2].replace("scan2", "scan2_gone")
    _, rows, _, _, _ = run([*files[:2], gone, *files[3:]], tmp_path, batch_size=4)
    (row,) = [row for row in rows if row["status"] != "ok"]
    assert row["file"] == gone
    assert "gone" in row["status"] or "No such file" in row["status"]


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("metrics", [False, True])
def test_all_files_fail(files, tmp_path, batch_size, metrics):
    for file in files:
        unreadable(file)
    chosen = {"ifim_trace": mi.SpectrumMetric()} if metrics else None
    names, rows, _, error, _ = run(files, tmp_path, batch_size=batch_size, metrics=chosen)
    assert names == []
    assert [row["file"] for row in rows] == files
    assert all(row["status"].startswith(STATUS) for row in rows)
    assert str(error).startswith("10 of 10 images have no result")


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_several_fail_in_a_row(files, tmp_path, batch_size):
    """Whole batches are gone, at the beginning, in the middle and at the end."""
    bad = {0, 1, 2, 5, 6, 7, 9}
    for i in bad:
        unreadable(files[i])
    names, rows, _, error, _ = run(files, tmp_path, batch_size=batch_size)
    good = [f for i, f in enumerate(files) if i not in bad]
    assert [name for batch in names for name in batch] == good
    assert [row["status"] == "ok" for row in rows] == [i not in bad for i in range(10)]
    assert str(error).startswith("7 of 10 images have no result")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_running_an_evaluator_twice(files, tmp_path, batch_size):
    """As a ValidationHandler does: every run processes every image, and lists each failure once."""
    unreadable(files[4])
    names, rows, _, error, _ = run(
        files, tmp_path, fail_at_end=False, epochs=2, batch_size=batch_size
    )
    good = [f for i, f in enumerate(files) if i != 4]
    assert [name for batch in names for name in batch] == good * 2
    assert [row["file"] for row in rows] == files
    assert error is None


@pytest.mark.parametrize("bad", [0, 4, 9], ids=["first", "middle", "last"])
@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_epochs_of_a_trainer(files, tmp_path, batch_size, bad):
    """Ignite keeps its iterator across epochs: no epoch may be cut short by the one before."""
    unreadable(files[bad])
    loader = mi.FaultTolerantDataLoader(dataset(files), batch_size=batch_size)
    network, batches, epochs = smooth_network(3, classes=3), Batches(), []

    class Epochs:
        def attach(self, engine):
            engine.add_event_handler(
                Events.EPOCH_COMPLETED, lambda e: epochs.append(read_table(tmp_path))
            )

    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=3,
        train_data_loader=loader,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=nn.CrossEntropyLoss(),
        train_handlers=[mi.IFIMHandler(output_dir=tmp_path), batches, Epochs()],
    )
    trainer.run()
    good = [f for i, f in enumerate(files) if i != bad]
    assert [name for batch in batches.names for name in batch] == good * 3
    assert len(epochs) == 3
    for rows in epochs:
        assert [row["file"] for row in rows] == files
        assert [row["status"] == "ok" for row in rows] == [i != bad for i in range(10)]


def test_validation_inside_a_training(files, tmp_path):
    unreadable(files[9])
    network = smooth_network(3, classes=3)
    batches = Batches()
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=mi.FaultTolerantDataLoader(dataset(files), batch_size=1),
        network=network,
        val_handlers=[mi.IFIMHandler(output_dir=tmp_path), batches],
    )
    SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=DataLoader(dataset(files[:4]), batch_size=2),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=nn.CrossEntropyLoss(),
        train_handlers=[ValidationHandler(1, evaluator)],
    ).run()
    assert [name for batch in batches.names for name in batch] == files[:9] * 2
    assert [row["file"] for row in read_table(tmp_path)] == files


def test_the_failure_is_logged_with_its_reason(files, tmp_path, caplog):
    unreadable(files[3])
    with caplog.at_level(logging.ERROR, logger="monai_ifim"):
        run(files, tmp_path, batch_size=4)
    lines = [r.getMessage() for r in caplog.records if r.name == "monai_ifim.data.loaders"]
    assert len(lines) == 1
    assert lines[0].startswith(f"{files[3]} failed: ")


def test_a_wrong_image_fails_like_an_unreadable_one(files, tmp_path):
    """A 4D file: CheckImaged stops it, and the row holds its sentence."""
    values = np.random.default_rng(0).standard_normal((13, 11, 9, 2)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.eye(4)), files[5])
    steps = preprocessing().transforms
    transform = Compose([*steps[:2], mi.CheckImaged("image", channels=1, spatial_dims=3), steps[2]])
    loader = mi.FaultTolerantDataLoader(dataset(files, transform), batch_size=4)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=smooth_network(3),
        val_handlers=[mi.IFIMHandler(output_dir=tmp_path, fail_at_end=True)],
    )
    with pytest.raises(RuntimeError, match="1 of 10"):
        evaluator.run()
    rows = read_table(tmp_path)
    assert [row["status"] == "ok" for row in rows] == [i != 5 for i in range(10)]
    assert "expected 1 channel and 3 spatial axes, got an image of shape" in rows[5]["status"]


def random_transform():
    return Compose(
        [
            *preprocessing().transforms,
            RandFlipd("image", prob=0.5, spatial_axis=0),
            RandGaussianNoised("image", prob=1.0, std=0.5),
        ]
    )


def collect(loader_class, files, epochs=2, data=None, **options):
    """All batches of some epochs, from a seed."""
    torch.manual_seed(5)
    transform = random_transform().set_random_state(7)
    data = dataset(files, transform) if data is None else data
    loader = loader_class(data, **options)
    return len(loader), [batch for _ in range(epochs) for batch in loader], torch.get_rng_state()


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_without_failures_it_is_the_loader_of_monai(files, num_workers, batch_size, shuffle):
    """Same batches bit for bit: order, random augmentation, metadata, state of the generator."""
    options = {"num_workers": num_workers, "batch_size": batch_size, "shuffle": shuffle}
    length, expected, state = collect(DataLoader, files[:7], **options)
    own_length, batches, own_state = collect(mi.FaultTolerantDataLoader, files[:7], **options)
    assert own_length == length
    assert len(batches) == len(expected) == 2 * length
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        assert torch.equal(batch["image"], other["image"])
        assert type(batch["image"]) is type(other["image"])
        assert batch["image"].is_batch
        assert batch["image"].meta["filename_or_obj"] == other["image"].meta["filename_or_obj"]
        assert torch.equal(batch["image"].affine, other["image"].affine)
        assert torch.equal(batch["label"], other["label"])
    assert torch.equal(own_state, state)
    if shuffle:
        orders = [
            [n for b in half for n in b["image"].meta["filename_or_obj"]]
            for half in (batches[:length], batches[length:])
        ]
        assert sorted(orders[0]) == sorted(orders[1]) == files[:7]
        assert orders[0] != orders[1]


def test_the_others_stay_bit_for_bit_beside_a_failure(files):
    """Without random transforms: the nine images are those that MONAI's loader gives."""
    expected = {item["image"].meta["filename_or_obj"]: item["image"] for item in dataset(files)}
    unreadable(files[6])
    torch.manual_seed(5)
    loader = mi.FaultTolerantDataLoader(dataset(files), batch_size=4, shuffle=True)
    seen = []
    for batch in loader:
        for image, name in zip(batch["image"], batch["image"].meta["filename_or_obj"], strict=True):
            assert torch.equal(image.as_tensor(), expected[name].as_tensor())
            seen.append(name)
    assert sorted(seen) == [f for f in files if f != files[6]]


def test_options_of_the_loader_are_passed_on(files):
    loader = mi.FaultTolerantDataLoader(
        dataset(files), batch_size=4, drop_last=True, collate_fn=lambda items: len(items)
    )
    assert list(loader) == [4, 4]
    assert len(loader) == 2


def test_failures_are_listed_for_each_epoch(files):
    unreadable(files[1])
    loader = mi.FaultTolerantDataLoader(dataset(files[:4]), batch_size=2)
    assert loader.failures == []
    for _ in range(2):
        assert sum(len(batch["image"]) for batch in loader) == 3
        (failure,) = loader.failures
        assert failure.file == files[1]
        assert failure.reason


@pytest.mark.parametrize(
    ("data", "kwargs", "file"),
    [
        ([{"scan": "a"}, {"scan": "b"}], {"image_key": "scan"}, "b"),
        ([{"scan": "a"}, {"scan": "b"}], {}, "image 1 of the data set"),
        (["a", "b"], {}, "b"),
        (None, {}, "image 1 of the data set"),
    ],
)
def test_the_name_of_the_file(data, kwargs, file):
    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            if index == 1:
                raise ValueError("no pixels")
            return {"image": torch.zeros(1, 2, 3)}

    dataset_ = Broken()
    if data is not None:
        dataset_.data = data
    loader = mi.FaultTolerantDataLoader(dataset_, batch_size=2, **kwargs)
    assert [len(batch["image"]) for batch in loader] == [1]
    assert loader.failures == [Failure(file, "ValueError: no pixels")]


def test_reason_is_the_first_cause_in_one_short_line():
    def wrapped():
        try:
            raise FileNotFoundError("no such\nscan")
        except FileNotFoundError as cause:
            raise RuntimeError("applying transform X") from cause

    with pytest.raises(RuntimeError) as caught:
        wrapped()
    assert reason(caught.value) == "FileNotFoundError: no such scan"
    long = reason(ValueError("x" * 500))
    assert len(long) == 300
    assert long.endswith("...")


def test_a_cached_data_set(files, tmp_path):
    """CacheDataset loads before the loader can guard it; what it caches is served as is."""
    data = CacheDataset(
        dataset(files).data, preprocessing(), cache_num=0, num_workers=None, progress=False
    )
    unreadable(files[2])
    loader = mi.FaultTolerantDataLoader(data, batch_size=5)
    assert [len(batch["image"]) for batch in loader] == [4, 5]
    assert [failure.file for failure in loader.failures] == [files[2]]


def test_images_that_collate_with_nothing_are_failures_not_an_error():
    def refuse(items):
        raise RuntimeError("no batch of these")

    loader = mi.FaultTolerantDataLoader([1, 2, 3], batch_size=3, collate_fn=refuse)
    assert list(loader) == []
    assert len(loader.failures) == 3
    assert loader.skipped == 1
