"""What is refused, with a message that says what was expected, what came, and how to fix it."""

import pytest
import torch
from torch import nn

import monai_ifim as mi
from _helpers.problems import Affine, smooth_images, smooth_network


class Returns(nn.Module):
    """A network that does with its input and its logits what a test asks for."""

    def __init__(self, change, outputs=3):
        super().__init__()
        self.body = smooth_network(2, outputs)
        self.change = change

    def forward(self, x):
        return self.change(self.body(x))


def refused(error, *parts):
    """The message contains these parts, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(parts))


# Networks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [lambda x: x.flatten(1), "network.pt", None])
def test_network_that_is_no_module(network):
    name = type(network).__name__
    with refused(TypeError, r"expected .*torch\.nn\.Module", f"got {name}", "wrap"):
        mi.eigenspace(network, smooth_images(2))


def test_parameters_made_under_inference_mode():
    with torch.inference_mode():
        network = smooth_network(2, 3)
    with refused(ValueError, "expected parameters", r"inference tensors.*0\.weight", "outside of"):
        mi.eigenspace(network, smooth_images(2))


def test_buffers_made_under_inference_mode():
    network = nn.Sequential(nn.Flatten(), nn.Linear(72, 3), nn.BatchNorm1d(3)).double()
    with torch.inference_mode():
        network[2].running_mean = torch.zeros(3, dtype=torch.float64)
    with refused(ValueError, "expected parameters and buffers", r"2\.running_mean", "outside of"):
        mi.eigenspace(network, smooth_images(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_parameters_warn(dtype):
    network, images = smooth_network(2, 3, dtype=dtype), smooth_images(2, dtype=dtype)
    with pytest.warns(UserWarning, match=r"half-precision parameters.*network\.float\(\)"):
        space = mi.eigenspace(network, images)
    # It warns and goes on: the leading direction is roughly that of the exact network.
    exact = mi.eigenspace(network.double(), images.double())
    cosine = (space.eigenvectors[:, 0] * exact.eigenvectors[:, 0]).flatten(1).sum(dim=1)
    assert (cosine.abs() > 0.9).all()


# Images -------------------------------------------------------------------------------------


def test_images_that_are_no_tensor():
    with refused(TypeError, r"expected images as a torch\.Tensor", "got ndarray", "as_tensor"):
        mi.eigenspace(smooth_network(2, 3), smooth_images(2).numpy())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.bool, torch.complex64])
def test_images_without_a_gradient(dtype):
    with refused(TypeError, "expected floating-point images", f"got {dtype}", r"images\.float"):
        mi.eigenspace(smooth_network(2, 3), smooth_images(2).to(dtype))


@pytest.mark.parametrize("shape", [(), (4,), (4, 6)])
def test_images_with_too_few_axes(shape):
    with refused(ValueError, r"expected images of shape \(batch", "got .*", r"images\[None\]"):
        mi.eigenspace(smooth_network(2, 3), torch.zeros(shape))


@pytest.mark.parametrize("shape", [(0, 3, 4, 6), (5, 3, 0, 6), (5, 0, 4, 6)])
def test_empty_batch(shape):
    with refused(ValueError, "expected at least one image", "got an empty batch", "skip"):
        mi.eigenspace(smooth_network(2, 3), torch.zeros(shape))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_images_that_are_not_finite_are_named(value):
    images = smooth_images(2)
    images[1, 2, 3, 4] = value
    with refused(ValueError, "expected finite images", "image 1 of the batch", "preprocessing"):
        mi.eigenspace(smooth_network(2, 3), images)
    images[4, 0, 0, 0] = value
    with refused(ValueError, "images 1, 4 of the batch"):
        mi.eigenspace(smooth_network(2, 3), images)


# Logits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda z: z.detach(),
        lambda z: torch.from_numpy(z.detach().numpy().copy()),
        lambda z: nn.functional.one_hot(z.argmax(dim=1), 3).double(),
        lambda z: torch.zeros_like(z),
    ],
)
def test_output_detached_from_the_images(change):
    with refused(ValueError, "expected logits that depend on", "got .*detached", "Remove it"):
        mi.eigenspace(Returns(change), smooth_images(2))


def test_network_under_no_grad_is_refused_and_not_zero_in_silence():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = smooth_network(2, 4), nn.Linear(4, 3).double()

        def forward(self, x):
            with torch.no_grad():
                features = self.stem(x)
            return self.head(features)

    with refused(ValueError, "expected logits that depend on the images", "no_grad"):
        mi.eigenspace(Frozen(), smooth_images(2))


@pytest.mark.parametrize("change", [lambda z: z[:, 0], lambda z: z.sum()])
def test_output_of_the_wrong_rank(change):
    with refused(ValueError, r"expected logits of shape \(batch, classes\)", "got", "choose"):
        mi.eigenspace(Returns(change), smooth_images(2))


def test_dense_output_with_one_class():
    with refused(ValueError, "at least 2 classes", r"got \(5, 1, 3\)", "output_transform"):
        mi.eigenspace(Returns(lambda z: z[:, None, :]), smooth_images(2))


@pytest.mark.parametrize(
    "choice",
    [
        {"likelihood": mi.GaussianMeanVariance()},
        {"method": "exact"},
        {"method": "truncated"},
        {"energy": 0.9},
    ],
)
def test_what_a_dense_output_cannot_have(choice):
    dense = Returns(lambda z: z[:, :, None, None].expand(-1, -1, 4, 6))
    with refused(ValueError, "expected", "got", "output_transform"):
        mi.eigenspace(dense, smooth_images(2), **choice)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"method": "fast"}, "expected method from"),
        ({"method": "exact", "tolerance": 1e-3}, "expected no tolerance"),
        ({"tolerance": 0.0}, "expected a relative tolerance"),
        ({"tolerance": 1.5}, "expected a relative tolerance"),
        ({"method": "krylov"}, "expected rank"),
        ({"method": "krylov", "energy": 0.5}, "expected rank"),
        ({"head": nn.Linear(4, 9), "method": "truncated"}, "expected head"),
        ({"vjp_chunk": "fast"}, "expected vjp_chunk"),
        ({"vjp_chunk": 0}, "expected vjp_chunk"),
    ],
)
def test_impossible_methods(choice, message):
    with refused(ValueError, message, "got"):
        mi.eigenspace(smooth_network(2, 3), smooth_images(2), **choice)


@pytest.mark.parametrize("change", [lambda z: z[:4], lambda z: z[:1], lambda z: z.repeat(2, 1)])
def test_output_of_the_wrong_batch_size(change):
    rows = len(change(torch.zeros(5, 3)))
    with refused(ValueError, "expected logits for 5 images", f"got {rows} rows", "one by one"):
        mi.eigenspace(Returns(change), smooth_images(2))


@pytest.mark.parametrize("change", [lambda z: (z, z), lambda z: {"logits": z}, lambda z: [z]])
def test_output_that_is_not_one_tensor(change):
    network, images = Returns(change), smooth_images(2)
    name = type(change(0)).__name__
    with refused(TypeError, "expected .*one tensor of logits", f"got {name}", "output_transform"):
        mi.eigenspace(network, images)

    def choose(output):
        return output["logits"] if isinstance(output, dict) else output[0]

    space = mi.eigenspace(network, images, output_transform=choose)
    assert torch.equal(space.eigenvalues, mi.eigenspace(network.body, images).eigenvalues)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolutional_heads_are_flattened(axes):
    images = smooth_images(2)
    network = Returns(lambda z: z[(..., *[None] * axes)])
    space = mi.eigenspace(network, images)
    assert torch.equal(space.logits, network.body(images))
    assert torch.equal(space.eigenvalues, mi.eigenspace(network.body, images).eigenvalues)


def test_one_logit_is_no_categorical():
    network, images = smooth_network(2, 1), smooth_images(2)
    with refused(ValueError, "expected at least 2 logits", r"got shape \(5, 1\)", "'bernoulli'"):
        mi.eigenspace(network, images)
    assert mi.eigenspace(network, images, likelihood="bernoulli").rank.tolist() == [1] * 5


def test_no_logit_is_no_bernoulli():
    network = Returns(lambda z: z[:, :0])
    with refused(ValueError, "expected at least 1 logit", r"got shape \(5, 0\)", "check"):
        mi.eigenspace(network, smooth_images(2), likelihood="bernoulli")


@pytest.mark.parametrize("family", ["categorical", "bernoulli"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])  # -inf rules a class out
def test_logits_that_are_not_finite_are_named(family, value):
    def spoil(z):
        rows = torch.arange(len(z))[:, None]
        return torch.where((rows == 3) & (torch.arange(3) == 1), value, z)

    with refused(ValueError, "expected finite logits", "image 3 of the batch", "overflow"):
        mi.eigenspace(Returns(spoil), smooth_images(2), likelihood=family)


@pytest.mark.parametrize("family", ["categorical", "bernoulli"])
def test_gradients_that_are_not_finite_are_named(family):
    class Root(nn.Module):
        def forward(self, x):  # sqrt at 0: finite, but its slope is not
            return torch.sqrt(x.square().flatten(2).sum(dim=2))

    images = smooth_images(2)
    images[2] = 0
    with refused(ValueError, "expected finite gradients", "image 2 of the batch", "sqrt"):
        mi.eigenspace(Root(), images, likelihood=family)


# Choices ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        (-1, "expected 1 <= rank,"),
        (0, "expected 1 <= rank,"),
        (3, "expected 1 <= rank <= 2 "),
        (100, "expected 1 <= rank <= 2 "),
    ],
)
def test_rank_out_of_range(rank, expected):
    with refused(ValueError, expected, f"got rank={rank}", "leave rank out"):
        mi.eigenspace(smooth_network(2, 3), smooth_images(2), rank=rank)


def test_rank_of_sigmoids_goes_up_to_the_number_of_labels():
    network, images = smooth_network(2, 3), smooth_images(2)
    assert mi.eigenspace(network, images, likelihood="bernoulli", rank=3).rank.tolist() == [3] * 5
    with refused(ValueError, "expected 1 <= rank <= 3", "got rank=4"):
        mi.eigenspace(network, images, likelihood="bernoulli", rank=4)


@pytest.mark.parametrize("energy", [-0.5, 0.0, 1.01, 95, torch.nan])
def test_energy_out_of_range(energy):
    with refused(ValueError, "expected .*0 < energy <= 1", f"got energy={energy}", "energy=0.95"):
        mi.eigenspace(smooth_network(2, 3), smooth_images(2), energy=energy)


def test_rank_and_energy_together():
    with refused(ValueError, "expected rank or energy", "got both", "leave one out"):
        mi.eigenspace(smooth_network(2, 3), smooth_images(2), rank=1, energy=0.9)


def test_unknown_likelihood():
    with refused(ValueError, "expected likelihood in", "got 'softmax'", "use 'categorical'"):
        mi.eigenspace(smooth_network(2, 3), smooth_images(2), likelihood="softmax")


@pytest.mark.parametrize("chunk", [0, -3])
def test_vjp_chunk_out_of_range(chunk):
    with refused(ValueError, "expected vjp_chunk >= 1", f"got {chunk}", "None is the plain loop"):
        mi.eigenspace(smooth_network(2, 3), smooth_images(2), vjp_chunk=chunk)


@pytest.mark.parametrize("method", ["split", "coefficients", "quadratic_form"])
def test_images_of_another_shape_than_the_eigenspace(method):
    images = smooth_images(2)
    space = mi.eigenspace(Affine(torch.randn(3, 72).double()), images)
    for other in (images[:1], images[0], images.transpose(2, 3)):
        with refused(ValueError, r"expected images of shape \(5, 3, 4, 6\)", "got", "pass the"):
            getattr(space, method)(other)


@pytest.mark.parametrize("rank", [0, 3])
def test_split_at_an_impossible_rank(rank):
    images = smooth_images(2)
    space = mi.eigenspace(smooth_network(2, 3), images)
    with refused(ValueError, "expected 1 <= rank <= 2", f"got rank={rank}"):
        space.split(images, rank=rank)


def test_probabilities_in_place_of_logits_are_noticed():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Softmax(dim=1))
    images = torch.rand(2, 1, 3, 4)
    with pytest.warns(UserWarning, match="are they probabilities"):
        mi.eigenspace(network, images)
    # The remedy that the warning names is exact.
    fixed = mi.eigenspace(network, images, output_transform=torch.log)
    torch.testing.assert_close(fixed.trace, mi.eigenspace(network[:2], images).trace)


@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical"])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("last", [[], [nn.Flatten()], [nn.Unflatten(1, (-1, 1)), nn.Flatten()]])
def test_sigmoids_in_place_of_logits_are_noticed(likelihood, outputs, last):
    if (likelihood, outputs) == ("categorical", 1):
        return  # refused: one output is no softmax
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, outputs), nn.Sigmoid(), *last)
    images = torch.rand(1, 1, 3, 4)
    with pytest.warns(UserWarning, match="are they probabilities of sigmoids"):
        mi.eigenspace(network, images, likelihood=likelihood)
    # The remedy that the warning names is right.
    options = {"likelihood": "bernoulli"}
    fixed = mi.eigenspace(network, images, output_transform=torch.logit, **options)
    torch.testing.assert_close(fixed.trace, mi.eigenspace(network[:2], images, **options).trace)


def test_many_values_between_0_and_1_are_noticed_without_a_sigmoid_in_the_graph():
    class Own(nn.Module):
        def forward(self, x):
            return 1 / (1 + torch.exp(-x.flatten(1)))

    with pytest.warns(UserWarning, match="are they probabilities of sigmoids"):
        mi.eigenspace(Own(), torch.randn(3, 1, 3, 3), likelihood="bernoulli")


@pytest.mark.parametrize("dims", [2, 3])
def test_one_image_without_the_axis_of_the_batch(dims):
    """A convolution takes it, and only a later layer fails, with a sentence of torch's own."""
    image = smooth_images(dims)[0]
    with pytest.raises(ValueError, match=r"perhaps it is one image.*the network takes images\["):
        mi.eigenspace(smooth_network(dims, 3), image)


def test_a_network_that_fails_for_another_reason_keeps_its_own_error():
    network = nn.Sequential(nn.Flatten(), nn.Linear(5, 3))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        mi.eigenspace(network, torch.randn(2, 1, 4, 4))


@pytest.mark.parametrize("entry", [mi.eigenspace, mi.IFIMHandler, mi.IFIMComponents])
def test_a_misspelt_option_is_refused_with_the_names_of_all(entry):
    with pytest.raises(TypeError, match=r"one of .*rank, .*autocast, got 'rnk'; did you mean 'ra"):
        entry(rnk=2)


def test_a_regression_output_is_not_sent_to_bernoulli():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    with pytest.raises(
        ValueError, match=r"sigmoid classifier use .*regression output .*use likelihood=Gaussian"
    ):
        mi.eigenspace(network, torch.randn(2, 1, 4, 4))
