"""Scans for the handler's tests."""

import pytest

from _helpers.scans import write_scan, write_scans


@pytest.fixture
def files(tmp_path):
    return write_scans(tmp_path / "scans", 3, count=5)


@pytest.fixture
def scans_of_two_shapes(tmp_path):
    """Files that differ in shape and affine, so that one's geometry cannot serve another."""
    folder = tmp_path / "scans"
    folder.mkdir()
    shapes = [(13, 11, 9), (12, 14, 10), (15, 8, 11)]
    return [write_scan(folder / f"s{i}.nii.gz", shape, i) for i, shape in enumerate(shapes)]
