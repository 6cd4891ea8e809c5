"""MONAI's vision transformer: it returns a tuple, and has fused attention."""

import copy
import warnings

import pytest
import torch
from torch import nn

import monai_ifim as mi
from _helpers import oracle


@pytest.fixture(scope="module")
def vit():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from monai.networks.nets import ViT

        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = ViT(
                in_channels=1,
                img_size=(8, 12),
                patch_size=(4, 4),
                hidden_size=12,
                mlp_dim=20,
                num_layers=2,
                num_heads=3,
                classification=True,
                num_classes=4,
                post_activation="none",
                spatial_dims=2,
            )
    return network.double()


@pytest.fixture(scope="module")
def scans():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 1, 8, 12, generator=generator, dtype=torch.float64)


def test_vit_returns_a_tuple_and_the_error_says_what_to_do(vit, scans):
    with pytest.raises(TypeError, match=r"expected .*one tensor.*got tuple.*output_transform"):
        mi.eigenspace(vit, scans)


@pytest.mark.parametrize("chunk", [None, 2])
def test_vit_against_the_dense_matrix(vit, scans, chunk):
    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = copy.deepcopy(vit).eval()

        def forward(self, x):
            return self.vit(x)[0]

    space = mi.eigenspace(vit, scans, output_transform=lambda y: y[0], vjp_chunk=chunk)
    values, vectors = oracle.eigh(oracle.fisher(Logits(), scans, "categorical"))
    assert ((space.eigenvalues - values[:, :3]).abs() <= 1e-10 * values[:, :1]).all()
    for v, theirs in zip(space.eigenvectors.flatten(2), vectors, strict=True):
        assert (v.T @ v - oracle.projector(theirs, 3)).abs().max() <= 1e-8


def test_vit_with_fused_attention(vit, scans):
    fused = copy.deepcopy(vit)
    for block in fused.blocks:
        block.attn.use_flash_attention = True
    first = [mi.eigenspace(v, scans, output_transform=lambda y: y[0]) for v in (vit, fused)]
    expected, space = (s.eigenvalues for s in first)
    torch.testing.assert_close(space, expected, rtol=1e-9, atol=0)
