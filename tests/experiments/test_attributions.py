"""Attribution maps against closed forms of a linear network, and on MONAI's architectures."""

import itertools
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import DenseNet121, EfficientNetBN, ViT, resnet18
from torch import nn

from _helpers.untouched import Rich, assert_untouched, snapshot
from monai_ifim.experiments.maps.attributions import attribution_maps
from monai_ifim.experiments.maps.features import grad_cam_layer
from monai_ifim.experiments.maps.methods import (
    METHODS,
    IntegratedGradients,
    Occlusion,
    SmoothedGradient,
)
from monai_ifim.experiments.maps.ranks import top_mask


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def every_method(steps, samples, window):
    """All of them, in their usual order, at a chosen cost."""
    chosen = [IntegratedGradients(steps), SmoothedGradient(samples), Occlusion(window)]
    options = {method.name: method for method in chosen}
    return [options.get(name, name) for name in METHODS]


def linear(shape, classes, seed=0):
    """A linear network on images (2, *shape) of nonzero mean, and the images."""
    generator = stream(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator).double())
    return network, torch.randn(2, *shape, generator=generator).double() + 0.7


def weights_of_outcome(network, images, likelihood):
    """(B, C, *S): the row of the predicted class, or of the surest label with its sign."""
    logits = images.flatten(1) @ network[1].weight.T + network[1].bias
    yes_or_no = likelihood == "bernoulli"
    chosen = (logits.abs() if yes_or_no else logits).argmax(dim=1)
    signs = logits.gather(1, chosen[:, None]).sign() if yes_or_no else 1
    return (network[1].weight[chosen] * signs).view(images.shape).detach()


def occluded(weight, image, window, moves):
    """Fall of wᵀx per voxel, averaged over the windows that cover it, one window at a time."""
    mean = image.mean(dim=tuple(range(1, image.ndim)), keepdim=True)
    contributions = weight * (image - mean)
    total, count = torch.zeros_like(image), torch.zeros_like(image)
    starts = [
        range(0, size - wide + move, move)  # the last one may hang over the edge
        for size, wide, move in zip(image.shape[1:], window, moves, strict=True)
    ]
    for corner in itertools.product(*starts):
        place = (..., *(slice(a, a + w) for a, w in zip(corner, window, strict=True)))
        total[place] += contributions[place].sum()
        count[place] += 1
    assert (count > 0).all()
    return total / count


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
@pytest.mark.parametrize(
    ("shape", "given", "window", "moves"),
    [
        ((2, 17, 26), None, (2, 3), (1, 1)),
        ((3, 7, 10), (3, 4), (3, 4), (1, 2)),
        ((2, 9, 5, 7), None, (2, 2, 2), (2, 2, 2)),
        ((2, 23), 5, (5,), (2,)),
    ],
)
def test_a_linear_network(shape, given, window, moves, likelihood):
    network, images = linear(shape, 4)
    weights = weights_of_outcome(network, images, likelihood)
    maps = attribution_maps(
        network,
        images,
        stream(),
        likelihood=likelihood,
        methods=["gradient", "integrated_gradients", "smoothgrad", Occlusion(given)],
        batch_size=5,
    )
    torch.testing.assert_close(maps["gradient"], weights)
    torch.testing.assert_close(maps["smoothgrad"], weights)
    # captum's quadrature weights are of float32
    torch.testing.assert_close(maps["integrated_gradients"], weights * images, rtol=1e-6, atol=0)
    expected = [occluded(w, x, window, moves) for w, x in zip(weights, images, strict=True)]
    torch.testing.assert_close(maps["occlusion"], torch.stack(expected))


def test_one_sigmoid_that_says_no():
    network, images = linear((1, 4, 5), 1)
    with torch.no_grad():
        network[1].bias -= 100
    maps = attribution_maps(network, images, stream(), likelihood="bernoulli", methods=["gradient"])
    torch.testing.assert_close(maps["gradient"][1], -network[1].weight.detach().view(1, 4, 5))


class Cubic(nn.Module):
    """Logits (sum of x³, 0)."""

    def forward(self, x):
        cubes = (x**3).flatten(1).sum(dim=1)
        return torch.stack([cubes, 0 * cubes], dim=1)


def test_a_cubic_network():
    """Completeness of the integral, and the mean gradient 3 (x² + σ²) of noisy copies."""
    images = torch.rand(2, 1, 6, 7, generator=stream(), dtype=torch.float64) + 1
    maps = attribution_maps(
        Cubic(),
        images,
        stream(1),
        methods=[SmoothedGradient(samples=4000, noise=0.5), "integrated_gradients"],
        batch_size=1000,
    )
    assert list(maps) == ["smoothgrad", "integrated_gradients"]
    torch.testing.assert_close(maps["integrated_gradients"], images**3, rtol=1e-6, atol=0)
    variance = (0.5 * images.flatten(1).std(dim=1, correction=0)) ** 2
    excess = maps["smoothgrad"] - 3 * images**2
    # standard error of the mean over 42 voxels: about 6 x σ / sqrt(4000 · 42) = 3e-3
    assert variance.min() > 0.014
    torch.testing.assert_close(excess.mean(dim=(1, 2, 3)), 3 * variance, rtol=0, atol=0.01)


class Logits(nn.Module):
    """The first of the things that a network returns."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)[0]


def vit(size):
    return ViT(
        in_channels=2,
        img_size=size,
        patch_size=8,
        hidden_size=24,
        mlp_dim=32,
        num_layers=2,
        num_heads=3,
        classification=True,
        num_classes=3,
        post_activation="none",
        spatial_dims=len(size),
    )


PATCHES = "network.patch_embedding.patch_embeddings"
ARCHITECTURES = {
    "densenet": (lambda: DenseNet121(2, 2, 3), (40, 32), "features.transition3.conv"),
    "resnet": (
        lambda: resnet18(spatial_dims=2, n_input_channels=2, num_classes=3),
        (40, 32),
        "layer4.1.act",
    ),
    "efficientnet": (
        lambda: EfficientNetBN("efficientnet-b0", False, spatial_dims=2, in_channels=2),
        (32, 40),
        "_blocks.5.11._bn0",
    ),
    "vit": (lambda: Logits(vit((32, 24))), (32, 24), PATCHES),
    "vit_3d": (lambda: Logits(vit((24, 16, 32))), (24, 16, 32), PATCHES),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(name):
    """Every method, with in-place activations and shared layers, and nothing is left behind."""
    make, size, layer_name = ARCHITECTURES[name]
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = make()
    images = torch.randn(1, 2, *size, generator=stream())
    before = snapshot(network, images)
    maps = attribution_maps(network, images, stream(), methods=every_method(2, 1, 16))
    assert grad_cam_layer(network, images) is network.get_submodule(layer_name)
    assert_untouched(before, network, images)
    assert list(maps) == list(METHODS)
    for values in maps.values():
        assert values.shape == images.shape
        assert values.dtype == images.dtype
        assert not values.requires_grad
        assert values.abs().max() > 0
    leaf = images.clone().requires_grad_()
    network.eval()(leaf).max().backward()
    torch.testing.assert_close(maps["gradient"], leaf.grad, rtol=1e-3, atol=1e-4)


def test_a_rich_network_is_untouched_under_every_mode():
    """Train-mode batch norm, dropout, gradients left, a MetaTensor, no_grad, inference_mode."""
    network = Rich()
    images = MetaTensor(torch.randn(2, 3, 4, 6, generator=stream()).double())
    before = snapshot(network, images)
    expected = attribution_maps(network, images, stream(3))
    assert_untouched(before, network, images)
    assert not any(isinstance(values, MetaTensor) for values in expected.values())
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            again = attribution_maps(network, images, stream(3))
            for name in METHODS:
                assert torch.equal(again[name], expected[name])
    assert_untouched(before, network, images)


class Failing(nn.Module):
    """Fails at the given call."""

    def __init__(self, call):
        super().__init__()
        self.calls, self.call = 0, call

    def forward(self, x):
        self.calls += 1
        if self.calls == self.call:
            raise RuntimeError("on purpose")
        return x


@pytest.mark.parametrize("call", range(1, 12))
def test_untouched_after_a_failure(call):
    """10 calls: one for the layer, one for the logits, and 1 + 2 + 2 + 1 + 2 of the methods."""
    network = Rich(Failing(call))
    images = torch.randn(1, 3, 4, 6, generator=stream()).double()
    before = snapshot(network, images)
    with pytest.raises(RuntimeError, match="on purpose") if call < 11 else nullcontext():
        attribution_maps(network, images, stream(), methods=every_method(4, 4, 4), batch_size=2)
    assert network.middle.calls == min(call, 10)
    assert_untouched(before, network, images)


def test_noise_comes_from_the_generator_alone():
    network, images = Rich(), torch.randn(2, 3, 4, 6, generator=stream()).double()
    found = []
    for global_seed, seed in ((1, 5), (2, 5), (2, 6)):
        torch.manual_seed(global_seed)
        found += attribution_maps(network, images, stream(seed), methods=["smoothgrad"]).values()
    first, second, third = found
    assert torch.equal(first, second)
    assert not torch.allclose(first, third)


def test_the_batch_does_not_matter():
    network, images = Rich(), torch.randn(3, 3, 4, 6, generator=stream()).double()
    methods = [name for name in METHODS if name != "smoothgrad"]
    whole = attribution_maps(network, images, stream(), methods=methods)
    last = attribution_maps(network, images[2:], stream(), methods=methods, batch_size=1)
    for name in methods:
        torch.testing.assert_close(last[name], whole[name][2:])


def test_a_network_that_edits_its_input():
    class Edits(nn.Module):
        def forward(self, x):
            return x.mul_(2).flatten(1)[:, :3]

    images = torch.rand(2, 1, 3, 4, generator=stream())
    kept = images.clone()
    maps = attribution_maps(Edits(), images, stream(), methods=["gradient", "occlusion"])
    assert torch.equal(images, kept)
    assert maps["gradient"].dtype == torch.float32
    assert maps["gradient"].flatten(1).sum(dim=1).tolist() == [2.0, 2.0]


def test_output_transform():
    network, images = linear((1, 4, 5), 3)

    class Pair(nn.Module):
        def forward(self, x):
            return network(x), None

    with pytest.raises(TypeError, match="output_transform"):
        attribution_maps(Pair(), images, stream(), methods=["gradient"])
    maps = attribution_maps(
        Pair(), images, stream(), methods=["gradient"], output_transform=lambda y: y[0]
    )
    torch.testing.assert_close(maps["gradient"], weights_of_outcome(network, images, "categorical"))


def test_a_locally_constant_network_has_a_map_of_zeros():
    network = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(6, 2))
    images = -torch.rand(1, 1, 2, 3, generator=stream()) - 0.1
    maps = attribution_maps(network, images, stream(), methods=["gradient"])
    assert maps["gradient"].count_nonzero() == 0
    with pytest.raises(ValueError, match="can be ordered, got the same absolute value"):
        top_mask(maps["gradient"], 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["lime"]}, "expected a list of methods"),
        ({"methods": "gradient"}, "expected a list of methods"),
        ({"methods": []}, "expected a list of methods"),
        ({"batch_size": 0}, "batch_size of at least 1, got 0"),
        ({"methods": [Occlusion(5)]}, "expected a window"),
        ({"methods": [Occlusion((2, 2, 2))]}, "expected a window"),
        ({"likelihood": "poisson"}, "expected likelihood in"),
    ],
)
def test_impossible_requests(changes, message):
    network, images = linear((1, 4, 5), 3)
    with pytest.raises(ValueError, match=message):
        attribution_maps(network, images, stream(), **{"methods": ["gradient"], **changes})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IntegratedGradients(steps=0), "steps of at least 1, got 0"),
        (lambda: SmoothedGradient(samples=0), "samples of at least 1, got 0"),
        (lambda: SmoothedGradient(noise=float("nan")), "expected noise >= 0"),
        (lambda: SmoothedGradient(noise=-0.1), "expected noise >= 0"),
    ],
)
def test_impossible_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_segmentation_is_refused():
    network, images = nn.Conv2d(1, 3, 1), torch.rand(2, 1, 4, 5)
    with pytest.raises(ValueError, match=r"one prediction per image.*got \(2, 3, 4, 5\)"):
        attribution_maps(network, images, stream(), methods=["gradient"])
    head = nn.Sequential(network, nn.AdaptiveAvgPool2d(1))  # leaves axes of length one
    assert attribution_maps(head, images, stream(), methods=["gradient"])["gradient"].any()


def test_values_that_are_not_finite():
    network, images = linear((1, 4, 5), 3)
    bad = images.clone()
    bad[1, 0, 2, 3] = float("nan")
    with pytest.raises(ValueError, match="expected finite images, got NaN or infinity in image 1"):
        attribution_maps(network, bad, stream(), methods=["gradient"])

    class Root(nn.Module):
        def forward(self, x):
            return torch.sqrt(x.abs()).flatten(1)[:, :3]

    images[1] = 0
    with pytest.raises(ValueError, match="from gradient for image 1 of the batch"):
        attribution_maps(Root(), images, stream(), methods=["gradient"])
