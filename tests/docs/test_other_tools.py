"""What docs/other_tools.md says of other tools, by running those that are installed."""

import re

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import DenseNet121
from monai.visualize import GradCAM, OcclusionSensitivity
from torch.nn.functional import cosine_similarity

import monai_ifim as mi
from _helpers.pages import DOCS

PAGE = (DOCS / "other_tools.md").read_text(encoding="utf-8")
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of captum and plenoptic
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def make_network(classes: int, values: int = 64) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (
            torch.nn.Flatten(),
            torch.nn.Linear(values, 16),
            torch.nn.Tanh(),
            torch.nn.Linear(16, classes),
        )
        return torch.nn.Sequential(*layers).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn((3, 1, 8, 8), generator=torch.Generator().manual_seed(0))


def cosines(maps: torch.Tensor, space: mi.Eigenspace) -> list[float]:
    """|cos| of maps with v₁, one an image."""
    first = space.eigenvectors[:, 0].flatten(1).double()
    return cosine_similarity(maps.flatten(1).double(), first).abs().tolist()


def quoted(before: str) -> tuple[float, float]:
    """The range of |cos| that the page has after some words."""
    found = re.search(rf"{before}[^|]*\|cos\|[^\d]*([\d.]+) to ([\d.]+\d)", " ".join(PAGE.split()))
    assert found, before
    return float(found[1]), float(found[2])


def assert_quoted(found: list[float], before: str) -> None:
    low, high = quoted(before)
    assert (min(found), max(found)) == pytest.approx((low, high), abs=0.0101)


def test_gradients_of_two_classes(images):
    attr = pytest.importorskip("captum.attr")
    network = make_network(2)
    space = mi.eigenspace(network, images)

    def saliency(output, target, **options):
        given = images.clone().requires_grad_()
        return attr.Saliency(output).attribute(given, target=target, **options)

    for target in (0, 1):
        of_probability = saliency(lambda x: network(x).softmax(1), target, abs=False)
        assert min(cosines(of_probability, space)) > 0.9995
    of_logits = [cosines(saliency(network, target, abs=False), space) for target in (0, 1)]
    assert_quoted([c for each in of_logits for c in each], "is not:")
    # The pattern of signs is lost by default.
    assert_quoted(cosines(saliency(network, 1), space), "no pattern of signs at all:")


def test_gradients_of_three_classes(images):
    attr = pytest.importorskip("captum.attr")
    network = make_network(3)
    space = mi.eigenspace(network, images)
    found = []
    for target in range(3):
        given = images.clone().requires_grad_()
        map_ = attr.Saliency(lambda x: network(x).softmax(1)).attribute(
            given, target=target, abs=False
        )
        _, outside = space.split(map_.detach())
        assert outside.norm() < 1e-5 * map_.norm()
        found += cosines(map_, space)
    assert_quoted(found, "is in general no eigenvector:")


def test_attributions_of_captum_that_add_up(images):
    attr = pytest.importorskip("captum.attr")
    network, zero = make_network(3), 0 * images
    score = (network(images) - network(zero))[:, 1]
    path = attr.IntegratedGradients(network).attribute(images, target=1, n_steps=200)
    assert torch.allclose(path.flatten(1).sum(1), score, atol=1e-5)
    few = attr.ShapleyValueSampling(network).attribute(images[:1], target=1, n_samples=2)
    assert torch.allclose(few.sum(), score[0], atol=1e-5)
    np.random.seed(0)  # captum draws by it
    errors = []
    for samples in (5, 20_000):
        shap = attr.GradientShap(network).attribute(
            images, baselines=zero[:1], target=1, n_samples=samples, stdevs=0.0
        )
        errors.append(float((shap.flatten(1).sum(1) - score).abs().max()))
    assert errors[0] > 5e-3
    assert errors[1] < errors[0] / 5
    assert errors[1] < 4e-3  # 20,000 random numbers are that far from their mean
    volume = torch.randn(1, 1, 4, 5, 6)
    assert attr.Saliency(make_network(3, 120)).attribute(volume, target=0).shape == volume.shape
    assert attr.LayerActivation(network, network[1]).attribute(images).shape == (3, 16)
    assert attr.NeuronGradient(network, network[1]).attribute(images, 3).shape == images.shape


def test_maps_of_monai():
    for dims in (2, 3):
        network = DenseNet121(spatial_dims=dims, in_channels=1, out_channels=3).eval()
        image = MetaTensor(torch.randn(1, 1, *[64] * dims), affine=2 * torch.eye(4))
        cam = GradCAM(nn_module=network, target_layers="class_layers.relu")
        found = cam(x=image, class_idx=1)
        assert found.shape == image.shape
        assert not hasattr(found, "affine")
    network = DenseNet121(spatial_dims=2, in_channels=1, out_channels=3).eval()
    occlusion = OcclusionSensitivity(network, mask_size=32, overlap=0.0, verbose=False)
    maps, most = occlusion(torch.randn(1, 1, 64, 64))
    assert maps.shape == (1, 3, 64, 64)  # all classes at once
    assert most.shape == (1, 1, 64, 64)


class Outputs(torch.nn.Module):
    """A frozen network, and what is taken of its logits."""

    def __init__(self, network, take):
        super().__init__()
        self.network, self.take = network.requires_grad_(False), take
        self.training = False

    def forward(self, images):
        return self.take(self.network(images))


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 1, 4, 4, 4)])
def test_eigendistortions_of_plenoptic(shape):
    plenoptic = pytest.importorskip("plenoptic", reason="the extra benchmarks is not installed")
    image, network = torch.rand(shape), make_network(3)
    space = mi.eigenspace(network, image)

    def eigenvalues(take, given):
        found = plenoptic.Eigendistortion(given.clone(), Outputs(network, take))
        found.synthesize(method="randomized_svd", k=2)
        return found.eigenvalues[:2].double()

    root = eigenvalues(lambda logits: 2 * (logits.log_softmax(1) / 2).exp(), image)
    assert torch.allclose(root, space.eigenvalues[0], rtol=1e-4)
    assert not torch.allclose(
        eigenvalues(lambda logits: logits, image), space.eigenvalues[0], rtol=0.5
    )
    with pytest.raises(ValueError, match="batch dimension must be 1"):
        eigenvalues(lambda logits: logits, torch.cat([image, image]))


def test_an_unlikely_class_counts_in_the_jacobian_and_not_in_f(images):
    network, image = make_network(3), images[:1]
    with torch.no_grad():
        network[3].bias[:] = torch.tensor([14.0, 0.0, 13.9])
    assert 1e-7 < network(image).softmax(1)[0, 1] < 1e-5
    jacobian = torch.autograd.functional.jacobian(network, image)[0].flatten(1).double()
    # Along what moves the logit of the unlikely class alone.
    others = torch.linalg.qr(jacobian[[0, 2]].T).Q
    d = jacobian[1] - others @ (others.T @ jacobian[1])
    d = d / d.norm()
    space = mi.eigenspace(network, image)
    assert (jacobian @ d).square().sum() > 0.1 * torch.linalg.svdvals(jacobian)[0].square()
    assert float(space.quadratic_form(d.reshape(image.shape))) < 1e-5 * float(space.trace)


@pytest.mark.parametrize(("shape", "taken"), [((8, 8), True), ((64,), True), ((4, 5, 6), False)])
def test_what_quantus_takes(shape, taken):
    quantus = pytest.importorskip("quantus", reason="Quantus is not installed")
    images = np.random.default_rng(0).random((3, 1, *shape), dtype=np.float32)
    metric = quantus.Sparseness(disable_warnings=True)
    given = {
        "model": make_network(3, images[0].size),
        "x_batch": images,
        "y_batch": np.arange(3),
        "a_batch": images,
        "device": "cpu",
    }
    if taken:
        assert np.isfinite(metric(**given)).all()
        with pytest.raises(AssertionError, match=r"np\.ndarray"):
            metric(**given | {"a_batch": torch.as_tensor(images)})
    else:
        with pytest.raises(ValueError, match="1D and 2D"):
            metric(**given)
