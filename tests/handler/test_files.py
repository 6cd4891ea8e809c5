"""Volumes on the scan's own grid: through the host's postprocessing and the handler's own."""

import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor

import monai_ifim as mi
from _helpers.comparisons import assert_close
from _helpers.geometry import assert_files_on_scan_grid, geometric_preprocessing, inverted_and_saved
from _helpers.networks import smooth_network
from _helpers.recorders import INFERERS, evaluate
from _helpers.scans import dataset, oblique
from _helpers.tables import read_table


@INFERERS
def test_volumes_return_to_the_scans_own_grid(scans_of_two_shapes, tmp_path, inferer):
    transform = geometric_preprocessing()
    loader = DataLoader(dataset(scans_of_two_shapes, transform), batch_size=2, num_workers=2)
    out = tmp_path / "out"
    evaluate(
        smooth_network(3),
        loader,
        mi.IFIMHandler(output_dir=out),
        inferer=inferer,
        postprocessing=inverted_and_saved(transform, out),
    )
    assert_files_on_scan_grid(scans_of_two_shapes, out)
    names = {path.name for path in out.iterdir()}
    assert len(names - {"ifim.csv", "run.json", ".ifim"}) == len(names) - 3 == 3 * 3


@pytest.mark.parametrize("decollate", [True, False])
def test_the_handlers_own_postprocessing(scans_of_two_shapes, tmp_path, decollate):
    transform = geometric_preprocessing()
    loader = DataLoader(dataset(scans_of_two_shapes, transform), batch_size=2)
    out = tmp_path / "out"
    handler = mi.IFIMHandler(
        output_dir=out,
        volumes=("high", "orth", "sensitivity"),
        postprocessing=inverted_and_saved(transform, out, ("high", "orth", "sensitivity")),
    )
    evaluate(smooth_network(3), loader, handler, decollate=decollate)
    assert_files_on_scan_grid(scans_of_two_shapes, out, ("high", "orth", "sensitivity"))
    assert [row["status"] for row in read_table(out)] == ["ok"] * 3


def test_own_postprocessing_does_not_disturb_the_hosts(scans_of_two_shapes, tmp_path):
    transform = geometric_preprocessing()
    loader = DataLoader(dataset(scans_of_two_shapes, transform), batch_size=3)
    network = smooth_network(3)
    _, expected = evaluate(network, loader, mi.IFIMHandler())
    out = tmp_path / "out"
    handler = mi.IFIMHandler(postprocessing=inverted_and_saved(transform, out))
    _, items = evaluate(network, loader, handler)
    for item, other in zip(items, expected, strict=True):
        for key in ("image", "ifim_high", "ifim_orth", "pred"):
            assert torch.equal(item[key], other[key])
            assert torch.equal(item[key].affine, other[key].affine)
            assert len(item[key].applied_operations) == len(other[key].applied_operations)


@INFERERS
def test_keys_carry_the_images_meta_after_decollation(files, inferer):
    loader = DataLoader(dataset(files), batch_size=2)
    handler = mi.IFIMHandler(volumes=("high", "orth", "sensitivity"))
    _, items = evaluate(smooth_network(3), loader, handler, inferer=inferer)
    assert len(items) == len(files)
    for i, item in enumerate(items):
        for name in ("high", "orth", "sensitivity"):
            value = item[f"ifim_{name}"]
            assert isinstance(value, MetaTensor)
            assert value.meta["filename_or_obj"] == files[i]
            np.testing.assert_allclose(value.affine, oblique(i), atol=1e-5)
            assert value.shape == item["image"].shape
            assert not value.requires_grad
            assert value.applied_operations == item["image"].applied_operations
        assert item["ifim_eigenvalues"].shape == (3,)
        assert item["ifim_high"].dtype == item["image"].dtype
        assert_close(item["ifim_high"] + item["ifim_orth"], item["image"])
        product = (item["ifim_high"].double() * item["ifim_orth"].double()).sum()
        assert abs(product) <= 1e-5 * item["image"].double().square().sum()
