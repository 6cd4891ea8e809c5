"""Files of pooled eigenspaces: the same values, the library's format, and sentences."""

import pytest
import torch

import monai_ifim as mi
from _helpers.problems import smooth_images, smooth_network
from monai_ifim.core.pooling.storage import write_tensors

IMAGES = torch.cat([smooth_images(2, seed=seed) for seed in range(6)])
NETWORK = smooth_network(2, 5)


def test_what_is_stored_is_the_same_and_can_be_merged(tmp_path):
    space = mi.pooled_eigenspace(NETWORK, IMAGES[:14].split(7), rank=4, sketch=6)
    space.save(tmp_path / "pooled.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["pooled.safetensors"]
    loaded = mi.PooledEigenspace.load(tmp_path / "pooled.safetensors")
    assert repr(loaded) == repr(space)
    for name in ("eigenvalues", "eigenvectors", "stability", "mean_jacobian"):
        assert torch.equal(getattr(loaded, name), getattr(space, name))
    for name in ("trace", "lost_trace", "eigenvalue_error", "count", "effective_count"):
        assert getattr(loaded, name) == getattr(space, name)
    other = mi.pooled_eigenspace(NETWORK, IMAGES[14:].split(7), rank=4, sketch=6)
    assert torch.equal(loaded.merged(other).eigenvalues, space.merged(other).eigenvalues)


def test_the_format_is_that_of_the_library(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    space = mi.pooled_eigenspace(NETWORK, IMAGES, rank=3)
    space.save(tmp_path / "a.safetensors")
    tensors = safetensors.load_file(tmp_path / "a.safetensors")
    assert torch.equal(tensors["eigenvectors"], space.eigenvectors)
    with pytest.importorskip("safetensors").safe_open(tmp_path / "a.safetensors", "pt") as file:
        texts = file.metadata()
    assert texts["likelihood"] == "Categorical()"
    safetensors.save_file(tensors, tmp_path / "b.safetensors", texts)
    assert torch.equal(mi.PooledEigenspace.load(tmp_path / "b.safetensors").eigenvalues,
                       space.eigenvalues)  # fmt: skip


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_file_that_is_cut_off(tmp_path, size):
    path = tmp_path / "a.safetensors"
    mi.pooled_eigenspace(NETWORK, IMAGES, rank=3).save(path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="expected a complete file of tensors"):
        mi.PooledEigenspace.load(path)


def test_a_file_of_something_else(tmp_path):
    write_tensors(tmp_path / "a", {"x": torch.zeros(3)}, {"format": "pt"})
    with pytest.raises(ValueError, match=r"expected 'monai_ifim pooled eigenspace 1' .*got 'pt'"):
        mi.PooledEigenspace.load(tmp_path / "a")
