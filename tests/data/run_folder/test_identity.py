"""A description of what makes a run is of what was chosen, not of what was done with it."""

from dataclasses import dataclass

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, SaveImaged

import monai_ifim as mi
from monai_ifim.data.run_folder.identity import described


def test_a_saver_that_has_saved_is_the_same(tmp_path):
    save = Compose([SaveImaged("image", output_dir=tmp_path, print_log=False)])
    before = described(save)
    save({"image": MetaTensor(torch.zeros(1, 3, 4, 5))})
    assert list(tmp_path.rglob("*.nii.gz"))
    assert described(save) == before
    assert described(Compose([SaveImaged("image", tmp_path, "other", print_log=False)])) != before


@dataclass(frozen=True)
class Frozen:
    k: int = 1


@dataclass(slots=True)
class Slotted:
    k: int = 1


class Question:
    name = "mine"

    def __init__(self, k=1):
        self.k, self._seen = k, []

    def answer(self, asked):
        raise NotImplementedError


class Nuisance:
    name, unit, reach, one_sided, step = "mine", "mGy", 5.0, True, 0.1

    def __init__(self, k=1):
        self.k = k

    def __call__(self, images, amounts):
        return images


class Counter:
    def __init__(self, k=1):
        self.k = k


@pytest.mark.parametrize("kind", [Frozen, Slotted, Question, Nuisance])
def test_what_others_wrote_counts_with_its_options(kind):
    assert described(kind(1)) == described(kind(1)) != described(kind(50))
    assert described([{"inside": kind(1)}]) != described([{"inside": kind(50)}])
    question = Question(1)
    question._seen.append(3)
    assert described(question) == described(Question(1))


def test_nuisances_of_others_inside_of_ours():
    chosen = [mi.NuisanceColumns([Nuisance(k)]) for k in (1, 1, 50)]
    first, again, other = ([described(each)] for each in chosen)
    assert first == again != other


def test_of_other_objects_the_class_counts():
    assert described(Counter(1)) == described(Counter(2))
