"""Scans for the handler's tests."""

import nibabel as nib
import numpy as np
import pytest

from _helpers.runs import results
from _helpers.runs import run as run_part
from _helpers.scans import oblique, write_scan, write_scans


@pytest.fixture
def files(tmp_path):
    return write_scans(tmp_path / "scans", 3, count=5)


@pytest.fixture
def same_grid(tmp_path):
    """Files on one grid."""
    folder = tmp_path / "aligned"
    folder.mkdir()
    paths = [write_scan(folder / f"s{i}.nii.gz", (13, 11, 9), i) for i in range(5)]
    for path in paths:
        nib.save(nib.Nifti1Image(nib.load(path).get_fdata(dtype=np.float32), oblique()), path)
    return paths


@pytest.fixture
def scans_of_two_shapes(tmp_path):
    """Files that differ in shape and affine, so that one's geometry cannot serve another."""
    folder = tmp_path / "scans"
    folder.mkdir()
    shapes = [(13, 11, 9), (12, 14, 10), (15, 8, 11)]
    return [write_scan(folder / f"s{i}.nii.gz", shape, i) for i, shape in enumerate(shapes)]


@pytest.fixture(scope="session")
def scans(tmp_path_factory):
    """Five scans."""
    return write_scans(tmp_path_factory.mktemp("lists") / "scans", 3, count=5)


@pytest.fixture(scope="session")
def whole(scans, tmp_path_factory):
    """Results of one process, by size of the batches."""
    folders = {size: tmp_path_factory.mktemp("whole") / "out" for size in (1, 2)}
    for size, out in folders.items():
        run_part(scans, out, size=size)
    return {size: results(out) for size, out in folders.items()}
