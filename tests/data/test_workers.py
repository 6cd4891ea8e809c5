"""A process that loads images dies: its images are loaded again, and one that kills it is a row."""

import os
import signal

import pytest
from monai.data import DataLoader, Dataset

import monai_ifim as mi
from monai_ifim.data.loading.remaining import Remaining

# MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")


class Deadly:
    """Kills the process that loads the item; every time, or once."""

    def __init__(self, deadly, folder, always):
        self.deadly, self.folder, self.always = deadly, folder, always

    def __call__(self, item):
        mark = self.folder / f"died-{item['number']}"
        if item["number"] in self.deadly and (self.always or not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item


def loader(tmp_path, deadly, always, **options):
    data = [{"image": f"scan{i}.nii.gz", "number": i} for i in range(12)]
    dataset = Dataset(data, Deadly(deadly, tmp_path, always))
    return mi.FaultTolerantDataLoader(dataset, num_workers=2, **options)


def numbers(batches):
    return [batch["number"].tolist() for batch in batches]


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("deadly", [{0}, {5}, {11}, {2, 3, 9}])
def test_no_image_is_lost_with_a_process(tmp_path, deadly, persistent):
    loaded = loader(tmp_path, deadly, False, batch_size=2, persistent_workers=persistent)
    # torch's own raises wherever the main process happens to be.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    assert numbers(loaded) == [[i, i + 1] for i in range(0, 12, 2)]
    assert loaded.failures == []
    assert {int(p.name[5:]) for p in tmp_path.glob("died-*")} == deadly
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    assert numbers(loaded) == [[i, i + 1] for i in range(0, 12, 2)]  # a second pass


@pytest.mark.parametrize("size", [1, 3])
def test_an_image_that_always_kills_is_a_failure_of_its_own(tmp_path, size):
    loaded = loader(tmp_path, {4, 10}, True, batch_size=size)
    found = [i for batch in numbers(loaded) for i in batch]
    assert found == [0, 1, 2, 3, 5, 6, 7, 8, 9, 11]
    assert [each.file for each in loaded.failures] == ["scan4.nii.gz", "scan10.nii.gz"]
    assert "the process that loads it died twice" in loaded.failures[0].reason


def test_a_loader_around_another_survives_too(tmp_path):
    data = [{"image": f"scan{i}.nii.gz", "number": i} for i in range(6)]
    plain = DataLoader(Dataset(data, Deadly({3}, tmp_path, False)), batch_size=2, num_workers=1)
    assert numbers(mi.FaultTolerantDataLoader.around(plain)) == [[0, 1], [2, 3], [4, 5]]


def test_what_is_left():
    data = Dataset([{"image": f"{i}"} for i in range(7)])
    left = Remaining([[0, 1], [2, 3], [4, 5], [6]], data)
    left.done, left.refused, left.alone = {"0", "1", "2"}, {"5"}, {"6"}
    started = []
    left.on_start = started.append
    assert list(left) == [[2, 3], [4], [6]]
    assert started == [["2", "3"], ["4"], ["6"]]
    assert (left.left_out, len(left)) == (1, 4)
    left.alone = {"2"}
    assert list(left) == [[2], [3], [4], [6]]
    assert left.claim(data)
    assert not left.claim(left)
    left.release(left)
    assert list(left) == [[2], [3], [4], [6]]
    left.release(data)
    assert list(left) == [[0, 1], [2, 3], [4, 5], [6]]
    half = iter(left)
    assert [next(half), next(half)] == [[0, 1], [2, 3]]
    left.go_on()
    assert list(left) == [[4, 5], [6]]
    assert left.given == [[0, 1], [2, 3], [4, 5], [6]]


def test_a_missing_list_leaves_nothing_out():
    left = Remaining([[0], [1]], Dataset([1, 2]))
    left.done = {"0"}
    assert list(left) == [[0], [1]]
