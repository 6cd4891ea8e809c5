"""ifim_transform.yaml, and where the overlays lie."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch

from _helpers.foreign_bundles import BY_NAME, Runs, network_of, parse, stem
from monai_ifim.__main__ import main

pytestmark = [
    # MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
    # As foreign bundles use it, without the argument that MONAI 1.6 wants.
    pytest.mark.filterwarnings("ignore:.*Orientationd.__init__.labels:FutureWarning"),
]


def test_the_command_finds_every_overlay(overlay: Path):
    assert overlay.is_file()
    assert overlay.is_absolute()
    for name in ("ifim", "ifim_validate", "ifim_transform"):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main(["config", name]) == 0
        assert Path(printed.getvalue().strip()) == overlay.with_name(f"{name}.yaml")


@pytest.mark.parametrize("runs", [BY_NAME["oblique_3d"]], indirect=True, ids=["oblique_3d"])
def test_it_gives_the_numbers_of_the_handler(runs: Runs, overlay: Path):
    import nibabel as nib

    parser = parse(
        runs.bundle, overlay.with_name("ifim_transform.yaml"), dataset_dir=str(runs.images)
    )
    weights = network_of(parser).state_dict()
    parser.get_parsed_content("network").load_state_dict(weights)
    transform = parser.get_parsed_content("ifim_transform")
    rows = {stem(row["file"]): row for row in runs.rows}
    dataset = parser.get_parsed_content("dataset")
    assert len(dataset) == len(rows) == 3
    for item in dataset:
        name = stem(item["image"].meta["filename_or_obj"])
        result, row = transform(item), rows[name]
        found = torch.tensor([float(row["eigenvalue_1"]), float(row["eigenvalue_2"])])
        assert torch.allclose(
            result["ifim_eigenvalues"].float(), found, rtol=0, atol=1e-5 * float(found[0])
        )
        assert float(result["ifim_trace"]) == pytest.approx(float(row["trace"]), rel=1e-5)
        for component in ("high", "orth"):
            saved = nib.load(runs.output / f"{name}_ifim_{component}.nii.gz")
            volume = result[f"ifim_{component}"]
            assert tuple(volume.shape) == (1, *saved.shape)
            assert np.allclose(volume.affine, saved.affine, rtol=0, atol=1e-5)
            difference = np.abs(volume[0].numpy() - saved.get_fdata()).max()
            assert difference <= 1e-5 * np.abs(saved.get_fdata()).max()
        assert result["image"].shape == item["image"].shape
