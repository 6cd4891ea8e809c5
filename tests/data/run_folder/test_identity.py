"""A description of what makes a run is of what was chosen, not of what was done with it."""

import torch
from monai.data import MetaTensor
from monai.transforms import Compose, SaveImaged

from monai_ifim.data.run_folder.identity import described


def test_a_saver_that_has_saved_is_the_same(tmp_path):
    save = Compose([SaveImaged("image", output_dir=tmp_path, print_log=False)])
    before = described(save)
    save({"image": MetaTensor(torch.zeros(1, 3, 4, 5))})
    assert list(tmp_path.rglob("*.nii.gz"))
    assert described(save) == before
    assert described(Compose([SaveImaged("image", tmp_path, "other", print_log=False)])) != before
