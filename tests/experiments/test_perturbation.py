"""The quadratic law on MONAI's architectures, and the order of the directions."""

import math

import pytest
import torch
from monai.networks.nets import DenseNet121, EfficientNetBN, ViT, resnet18
from torch import nn

import monai_ifim as mi
from monai_ifim.core import eigenspace
from monai_ifim.experiments import change_directions, kullback_leibler, perturbation_curve


def first(output):
    return output[0]


def tempered(output):
    """An untrained EfficientNet has logits in the thousands: too sure for any gradient."""
    return output / 3000


def vit(size, dimensions, classes):
    return ViT(
        in_channels=1,
        img_size=size,
        patch_size=8,
        hidden_size=24,
        mlp_dim=32,
        num_layers=2,
        num_heads=3,
        classification=True,
        num_classes=classes,
        post_activation="none",
        spatial_dims=dimensions,
    )


NETWORKS = {
    "densenet_2d": (lambda: DenseNet121(2, 1, 3), (2, 1, 40, 36), None),
    "resnet_2d": (
        lambda: resnet18(spatial_dims=2, n_input_channels=1, num_classes=3),
        (2, 1, 40, 36),
        None,
    ),
    "efficientnet_2d": (
        lambda: EfficientNetBN(
            "efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=1, num_classes=3
        ),
        (2, 1, 40, 36),
        tempered,
    ),
    "vit_2d": (lambda: vit((32, 24), 2, 3), (2, 1, 32, 24), first),
    "densenet_3d": (lambda: DenseNet121(3, 1, 3), (1, 1, 34, 33, 36), None),
    "resnet_3d": (
        lambda: resnet18(spatial_dims=3, n_input_channels=1, num_classes=3),
        (1, 1, 20, 18, 22),
        None,
    ),
    "vit_3d": (lambda: vit((16, 24, 8), 3, 3), (1, 1, 16, 24, 8), first),
}


def build(name, seed=0):
    make, shape, output_transform = NETWORKS[name]
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        network = make().double()
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = None  # mean over the passes
        with torch.no_grad():  # statistics as of a training
            network.train()(torch.randn(4, *shape[1:], dtype=torch.float64))
        images = torch.randn(shape, dtype=torch.float64)
    return network.eval(), images, output_transform


@pytest.mark.parametrize("name", NETWORKS)
def test_small_changes_follow_the_quadratic_law(name):
    """KL against ½ε²λ along every eigenvector, and ½ dᵀFd along others, to 1 %."""
    network, images, output_transform = build(name)
    space = eigenspace(network, images, output_transform=output_transform)
    others = change_directions(space, images, torch.Generator().manual_seed(1))
    directions = torch.cat(
        [space.eigenvectors, others["random_in_eigenspace"][:, None], others["random"][:, None]],
        dim=1,
    )
    # About 1e-11 nats: above float64's rounding, before most kinks.
    step = float((2e-11 / space.eigenvalues[:, 0]).sqrt().min())
    curve = perturbation_curve(
        network, images, directions, [step], output_transform=output_transform, space=space
    )
    rank = space.eigenvalues.shape[1]
    expected = 0.5 * step**2 * space.eigenvalues
    torch.testing.assert_close(curve.quadratic[:, :rank, 0], expected, rtol=1e-6, atol=0)
    # Weak directions lie below what a difference of float64 logarithms can show.
    visible = curve.quadratic > 1e-13
    ratio = curve.divergence[visible] / curve.quadratic[visible]
    assert visible[:, 0].all()
    assert (ratio - 1).abs().max() < 0.01


@pytest.mark.parametrize("labels", [1, 3])
def test_the_law_for_sigmoids(labels):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(35, 8), nn.Tanh(), nn.Linear(8, labels)
    ).double()
    images = torch.randn(3, 1, 5, 7, dtype=torch.float64)
    space = eigenspace(network, images, likelihood="bernoulli")
    curve = perturbation_curve(
        network, images, space.eigenvectors, [1e-4], likelihood="bernoulli", space=space
    )
    torch.testing.assert_close(curve.divergence, curve.quadratic, rtol=0.01, atol=0)


@pytest.mark.parametrize("family", ["categorical", "bernoulli"])
def test_divergence_against_torch(family):
    torch.manual_seed(0)
    before, after = torch.randn(2, 4, 3, dtype=torch.float64).unbind(0)
    if family == "categorical":
        p, q = (torch.distributions.Categorical(logits=z) for z in (before, after))
        expected = torch.distributions.kl_divergence(p, q)
    else:
        p, q = (torch.distributions.Bernoulli(logits=z) for z in (before, after))
        expected = torch.distributions.kl_divergence(p, q).sum(dim=1)
    torch.testing.assert_close(kullback_leibler(before, after, family), expected)


def test_the_eigenspace_is_where_the_prediction_moves():
    network, images, _ = build("resnet_2d")
    space = eigenspace(network, images)
    directions = change_directions(space, images, torch.Generator().manual_seed(0))
    units = torch.stack(list(directions.values()), dim=1)
    step = float((2e-4 / space.eigenvalues[:, 0]).sqrt().min())
    curve = perturbation_curve(network, images, units, [step], space=space)
    found = dict(zip(directions, curve.divergence[:, :, 0].unbind(1), strict=True))
    assert (found["leading"] > 100 * found["random"]).all()
    assert (found["random"] > found["random_in_complement"]).all()
    assert (found["leading"] >= 0.9 * found["random_in_eigenspace"]).all()
    assert (found["attenuate_high"] > 100 * found["attenuate_orth"]).all()
    norms = units.flatten(2).norm(dim=2)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_a_large_change_flips_and_leaves_the_law():
    """Two classes and one number: everything is known."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False)).double()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[1.0], [0.0]]))
    images = torch.tensor([[[2.0]]], dtype=torch.float64)
    curve = perturbation_curve(
        network, images, torch.tensor([[[[-5.0]]]]).double(), [0.01, 1.0, 3.0]
    )
    assert curve.flipped.flatten().tolist() == [False, False, True]
    after = torch.sigmoid(torch.tensor([1.99, 1.0, -1.0], dtype=torch.float64))
    p = torch.sigmoid(torch.tensor(2.0, dtype=torch.float64))
    torch.testing.assert_close(curve.probability_change.flatten(), after - p)
    expected = p * (p / after).log() + (1 - p) * ((1 - p) / (1 - after)).log()
    torch.testing.assert_close(curve.divergence.flatten(), expected)
    quadratic = 0.5 * torch.tensor([0.01, 1, 3.0]).double() ** 2 * p * (1 - p)
    torch.testing.assert_close(curve.quadratic.flatten(), quadratic)
    assert curve.quadratic_radius(0.1).item() == 0.01
    assert curve.quadratic_radius(100).item() == 3.0
    assert curve.quadratic_radius(1e-9).item() == 0.0


@pytest.mark.parametrize(
    ("directions", "norms", "message"),
    [
        (torch.ones(2, 1, 4, 4), [1.0], "expected directions"),
        (torch.ones(3, 1, 1, 4, 4), [1.0], "expected directions"),
        (torch.zeros(2, 1, 1, 4, 4), [1.0], "not zero"),
        (torch.ones(2, 1, 1, 4, 4), [0.0], "expected positive norms"),
        (torch.ones(2, 1, 1, 4, 4), [], "expected positive norms"),
    ],
)
def test_impossible_requests(directions, norms, message):
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with pytest.raises(ValueError, match=message):
        mi.perturbation_curve(network, torch.rand(2, 1, 4, 4), directions, norms)


def test_no_eigenpair_no_direction():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    nn.init.zeros_(network[1].weight)
    images = torch.rand(2, 1, 4, 4)
    with pytest.raises(ValueError, match="expected an eigenpair"):
        change_directions(eigenspace(network, images), images, torch.Generator())


def test_own_norms_for_each_image():
    network, images, _ = build("resnet_2d")
    units = torch.randn(2, 3, *images.shape[1:], dtype=torch.float64)
    norms = torch.tensor([[1e-3, 2e-3], [3e-3, 5e-3]], dtype=torch.float64)
    both = perturbation_curve(network, images, units, norms)
    for i in range(2):
        alone = perturbation_curve(network, images[i : i + 1], units[i : i + 1], norms[i].tolist())
        torch.testing.assert_close(both.divergence[i : i + 1], alone.divergence, rtol=1e-6, atol=0)
        torch.testing.assert_close(both.quadratic[i : i + 1], alone.quadratic)
        torch.testing.assert_close(both.logits[i : i + 1], alone.logits)
        radius = both.quadratic_radius(100)[i : i + 1]
        torch.testing.assert_close(radius, alone.quadratic_radius(100))


@pytest.mark.parametrize("gap", [1.0, 40.0, 300.0])
def test_a_sure_prediction_keeps_its_digits(gap):
    """Two classes, p₁ = 1 / (1 + eᵍ): KL of a small change of the logit in closed form."""
    step = 1e-3
    before = torch.tensor([[gap, 0.0]], dtype=torch.float64)
    change = torch.tensor([[step, 0.0]], dtype=torch.float64)
    found = kullback_leibler(before, before + change, "categorical")
    # Log-partition function a(g) = log(1 + eᵍ); its derivatives are p (1 - p) and so on.
    q = torch.sigmoid(torch.tensor(-gap, dtype=torch.float64))
    p = 1 - q
    expected = p * q * (step**2 / 2 + (q - p) * step**3 / 6 + (1 - 6 * p * q) * step**4 / 24)
    assert (found / expected - 1).abs() < 1e-9
    sigmoid = kullback_leibler(before[:, :1], before[:, :1] + step, "bernoulli")
    torch.testing.assert_close(sigmoid, found, rtol=1e-9, atol=0)


def test_divergence_of_a_huge_change_is_finite():
    before = torch.tensor([[3.0, 0.0, -2.0]], dtype=torch.float64)
    after = torch.tensor([[0.0, 4000.0, 1.0]], dtype=torch.float64)
    p = before.softmax(dim=1)
    expected = (p * (before.log_softmax(dim=1) - after.log_softmax(dim=1))).sum()
    torch.testing.assert_close(kullback_leibler(before, after, "categorical")[0], expected)


def test_divergence_is_never_negative():
    """A sure prediction whose improbable class gains by a factor of e⁶⁰, and loses by as much."""
    before = torch.tensor([[200.0, 0.0, -5.0]], dtype=torch.float64)
    for move in (60.0, -60.0):
        after = before + torch.tensor([[0.0, move, 0.0]], dtype=torch.float64)
        found = kullback_leibler(before, after, "categorical")[0]
        q = math.exp(-200.0)
        expected = q * (math.exp(move) - 1 - move)
        assert float(found) == pytest.approx(expected, rel=1e-9)
