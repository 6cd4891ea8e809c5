"""Grad-CAM by hand, and the layer that it looks at."""

import pytest
import torch
from torch import nn

from monai_ifim.experiments.maps.attributions import attribution_maps
from monai_ifim.experiments.maps.features import grad_cam_layer


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def test_grad_cam_by_hand():
    """One convolution, then a mean over positions: Grad-CAM is its weighted output."""
    generator = stream()
    convolution = nn.Conv2d(2, 3, 3, stride=2, bias=False)
    head = nn.Linear(3, 2, bias=False)
    for layer in (convolution, head):
        layer.weight.data = torch.randn(layer.weight.shape, generator=generator)
    network = nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).double()
    images = torch.randn(3, 2, 9, 13, generator=generator).double()
    assert grad_cam_layer(network, images) is convolution
    maps = attribution_maps(network, images, stream(), methods=["grad_cam"])["grad_cam"]
    with torch.no_grad():
        features = convolution(images)
        row = head.weight[network(images).argmax(dim=1)] / features[0, 0].numel()
        coarse = torch.einsum("bk,bkij->bij", row, features)[:, None]
    expected = nn.functional.interpolate(coarse, (9, 13), mode="bilinear", align_corners=False)
    torch.testing.assert_close(maps, expected.expand(3, 2, 9, 13))


def test_padding_and_attention_are_no_features():
    """An attention matrix (b, heads, n, n) passes through dropout, padding inflates one voxel."""

    class Attentive(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(1, 4, 4, stride=4)
            self.drop, self.soft, self.pad = nn.Dropout(0.1), nn.Softmax(-1), nn.ZeroPad2d(2)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            tokens = self.stem(x).flatten(2).transpose(1, 2)
            weights = self.soft(tokens @ tokens.transpose(1, 2))
            mixed = self.drop(weights[:, None])[:, 0] @ tokens
            return self.head(self.pad(mixed.mean(dim=1)[:, :, None, None]).sum(dim=(2, 3)))

    network = Attentive()
    assert grad_cam_layer(network, torch.rand(1, 1, 8, 12)) is network.stem


@pytest.mark.parametrize("in_head", [True, False])
def test_a_shared_layer_counts_where_it_is_used_last(in_head):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 3)
            self.act, self.head = nn.LeakyReLU(inplace=True), nn.Linear(3, 3)

        def forward(self, x):
            y = self.second(self.act(self.first(x)))
            y = (y if in_head else self.act(y)).mean(dim=(2, 3))
            return self.head(self.act(y) if in_head else y)

    network = Shared()
    images = torch.rand(1, 1, 7, 8)
    assert grad_cam_layer(network, images) is (network.second if in_head else network.act)
    maps = attribution_maps(network, images, stream(), methods=["grad_cam"])
    assert maps["grad_cam"].shape == images.shape


def test_no_layer_for_grad_cam():
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(20, 3)), torch.rand(2, 1, 4, 5)
    with pytest.raises(ValueError, match="expected a layer with 2 spatial axes"):
        attribution_maps(network, images, stream())
    with pytest.raises(ValueError, match="got none in Sequential"):
        grad_cam_layer(nn.Sequential(nn.Conv2d(1, 3, (4, 2)), nn.Flatten()), images)
