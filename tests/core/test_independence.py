"""Images of a batch that influence each other are noticed, and nothing else is taken for that."""

import pytest
import torch
from monai.networks.nets import DenseNet121, ViT
from torch import nn

import monai_ifim as mi
from _helpers.problems import smooth_images, smooth_network


class Mixes(nn.Module):
    """A step along the batch axis in front of a network."""

    def __init__(self, mix):
        super().__init__()
        self.mix, self.body = mix, smooth_network(2, 3)

    def forward(self, x):
        return self.body(self.mix(x))


class BatchFirstForgotten(nn.Module):
    """A recurrent layer that takes the batch for the sequence: later images see earlier ones."""

    def __init__(self, reverse=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.rnn, self.head = nn.RNN(72, 6).double(), nn.Linear(6, 3).double()
        self.reverse = reverse

    def forward(self, x):
        x = x.flatten(1)
        x = x.flip(0) if self.reverse else x
        out = self.head(self.rnn(x)[0])
        return out.flip(0) if self.reverse else out


def batch_norm():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(3, track_running_stats=False)
        return nn.Sequential(norm, nn.Flatten(), nn.Linear(72, 3)).double()


def pairs(x):
    """Two and two; the fifth is alone."""
    return (
        torch.cat([x[:4].unflatten(0, (-1, 2)).flip(1).flatten(0, 1), x[4:]]) if len(x) > 1 else x
    )


def first_sees_last(x):
    return torch.cat([x[:1] + 0.1 * x[-1:], x[1:]])


MIXES = {
    "batch norm": batch_norm,
    "softmax along the batch": lambda: Mixes(lambda x: x.softmax(dim=0)),
    "minus the mean": lambda: Mixes(lambda x: x - 0.01 * x.mean(dim=0, keepdim=True)),
    "neighbours": lambda: Mixes(lambda x: x + 0.1 * x.roll(1, dims=0)),
    "pairs": lambda: Mixes(pairs),
    "earlier images": BatchFirstForgotten,
    "later images": lambda: BatchFirstForgotten(reverse=True),
    "the first sees the last": lambda: Mixes(first_sees_last),
}


@pytest.mark.parametrize("name", MIXES)
def test_coupled_images_are_refused(name):
    network, images = MIXES[name]().eval(), smooth_images(2)
    assert len(images) == 5
    with pytest.raises(ValueError, match=r"one by one.*batches of one image"):
        mi.eigenspace(network, images)
    mi.eigenspace(network, images[:1])  # one image has no others


@pytest.mark.parametrize("batch", [2, 3, 4, 5])
def test_every_size_of_batch(batch):
    network = Mixes(lambda x: x + 0.1 * x.flip(0))
    with pytest.raises(ValueError, match="one by one"):
        mi.eigenspace(network, smooth_images(2)[:batch])


class FirstOutput(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x)[0]


NETWORKS = {
    "dense": lambda: DenseNet121(spatial_dims=2, in_channels=1, out_channels=3),
    "instance norm": lambda: nn.Sequential(nn.InstanceNorm2d(1), nn.Flatten(), nn.Linear(1024, 3)),
    "layer norm": lambda: nn.Sequential(
        nn.GroupNorm(1, 1), nn.Flatten(), nn.LayerNorm(1024), nn.Linear(1024, 3)
    ),
    "attention": lambda: FirstOutput(
        ViT(
            in_channels=1,
            img_size=32,
            patch_size=8,
            hidden_size=24,
            mlp_dim=32,
            num_layers=1,
            num_heads=3,
            classification=True,
            spatial_dims=2,
        )
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_images_that_are_independent(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, images = NETWORKS[name]().eval(), torch.randn(4, 1, 32, 32)
    assert bool(torch.isfinite(mi.eigenspace(network, images).trace).all())


def test_an_image_with_nan_is_not_taken_for_an_influence():
    network, images = smooth_network(2, 3), smooth_images(2)
    images[1, 0, 0, 0] = torch.nan
    with mi.core.at_rest(network, images.device):
        space = mi.core.decompose(mi.core.run_forward(network, images))
    assert torch.isfinite(space.trace).tolist() == [True, False, True, True, True]


def test_asked_once_for_each_network():
    counted = smooth_network(2, 3)
    passes = []
    counted.register_full_backward_hook(lambda *_: passes.append(1))
    counts = []
    for _ in range(3):
        passes.clear()
        mi.eigenspace(counted, smooth_images(2), vjp_chunk=None)
        counts.append(len(passes))
    assert counts[1] == counts[2] == 2 < counts[0]


def test_asked_again_when_a_layer_has_changed():
    norm = nn.BatchNorm2d(3).double()
    network = nn.Sequential(norm, nn.Flatten(), nn.Linear(72, 3).double()).eval()
    mi.eigenspace(network, smooth_images(2))
    network[0] = nn.BatchNorm2d(3, track_running_stats=False).double()
    with pytest.raises(ValueError, match="one by one"):
        mi.eigenspace(network, smooth_images(2))


def test_asked_again_when_running_statistics_are_taken_away():
    norm = nn.BatchNorm2d(3).double()
    network = nn.Sequential(norm, nn.Flatten(), nn.Linear(72, 3).double()).eval()
    mi.eigenspace(network, smooth_images(2))
    norm.running_mean = norm.running_var = None
    with pytest.raises(ValueError, match="one by one"):
        mi.eigenspace(network, smooth_images(2))


UNSEEN = {  # by gradients
    "maximum": lambda x: x / x.detach().abs().amax(),
    "mean": lambda x: x - x.detach().mean(dim=0, keepdim=True),
    "rank": lambda x: (
        x * (1 + x.detach().flatten(1).mean(1).argsort().argsort().view(-1, 1, 1, 1) / len(x))
    ),
    "range": lambda x: torch.fake_quantize_per_tensor_affine(
        x, float(x.detach().abs().max()) / 127, 0, -128, 127
    ),
}


@pytest.mark.parametrize("name", UNSEEN)
@pytest.mark.parametrize("batch", [2, 5])
def test_coupling_that_no_gradient_shows(name, batch):
    network, images = Mixes(UNSEEN[name]).eval(), smooth_images(2)
    with pytest.raises(ValueError, match=r"one by one.*batches of one image"):
        mi.eigenspace(network, images[:batch])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_rounding_is_no_coupling(dtype, scale):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = DenseNet121(spatial_dims=2, in_channels=1, out_channels=3).eval().to(dtype)
        images = scale * torch.randn(7, 1, 64, 64, dtype=dtype)
    assert bool(torch.isfinite(mi.eigenspace(network, images, rank=1).trace).all())


def test_a_network_that_draws_at_random_is_not_called_coupled():
    network = Mixes(lambda x: x + 0.01 * torch.randn_like(x))
    mi.eigenspace(network, smooth_images(2))
