"""The prediction of the wrapped inferer, bit for bit, and a graph that is right or absent."""

import copy
import gc
import weakref

import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.inferers import SimpleInferer, SlidingWindowInferer
from torch import nn

import monai_ifim as mi
from _helpers.comparisons import assert_close
from _helpers.networks import smooth_network
from _helpers.recorders import count_forwards, evaluate
from _helpers.scans import dataset, write_scans

# MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")


class PooledWindows(SlidingWindowInferer):
    """A classifier that is slid over the image, its maps of logits averaged."""

    def __call__(self, inputs, network, *args, **kwargs):
        maps = super().__call__(inputs, network, *args, **kwargs)
        return maps.flatten(2).mean(dim=2)


class TupleNetwork(nn.Module):
    """Logits and features, as MONAI's ViT returns them."""

    def __init__(self):
        super().__init__()
        self.body = smooth_network(3)

    def forward(self, x):
        return self.body(x), [x.mean(dim=(2, 3, 4))]


class DictNetwork(TupleNetwork):
    def forward(self, x):
        logits, (mean,) = super().forward(x)
        return {"logits": logits, "extra": {"mean": mean, "name": "text"}}


class Conditioned(nn.Module):
    """Takes one more positional and one more keyword argument."""

    def __init__(self):
        super().__init__()
        self.body = smooth_network(3)

    def forward(self, x, shift, *, scale=1.0):
        return self.body(x) * scale + shift


@pytest.fixture
def images(tmp_path):
    """A collated batch of NIfTI files."""
    loader = DataLoader(dataset(write_scans(tmp_path, 3, count=2)), batch_size=2)
    return next(iter(loader))["image"]


def assert_same(actual, expected):
    """Structure, types, values, metadata: nothing tells the two apart."""
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key in expected:
            assert_same(actual[key], expected[key])
    elif isinstance(expected, tuple | list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, torch.Tensor):
        assert actual.dtype == expected.dtype
        assert actual.requires_grad == expected.requires_grad
        assert torch.equal(actual, expected)
        if isinstance(expected, MetaTensor):
            assert actual.is_batch == expected.is_batch
            assert actual.meta.keys() == expected.meta.keys()
            assert actual.meta["filename_or_obj"] == expected.meta["filename_or_obj"]
            assert torch.equal(actual.affine, expected.affine)
            assert actual.applied_operations == expected.applied_operations
    else:
        assert actual == expected


def windows_network():
    """Maps of logits instead of one vector."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv3d(4, 3, 1))


CASES = {
    "tensor": (lambda: smooth_network(3), SimpleInferer(), (), {}),
    "tuple": (TupleNetwork, SimpleInferer(), (), {}),
    "dict": (DictNetwork, SimpleInferer(), (), {}),
    "arguments": (Conditioned, SimpleInferer(), (torch.tensor([0.5]),), {"scale": 2.0}),
    "windows": (windows_network, PooledWindows((8, 7, 6), sw_batch_size=3), (), {}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("plain", [False, True], ids=["MetaTensor", "Tensor"])
def test_prediction_is_that_of_the_wrapped_inferer(images, case, context, plain):
    build, wrapped, args, kwargs = CASES[case]
    network = build().eval()
    inputs = images.as_tensor() if plain else images
    with context():
        expected = wrapped(inputs, network, *args, **kwargs)
        inferer = mi.IFIMInferer(wrapped)
        assert_same(inferer(inputs, network, *args, **kwargs), expected)
        graph = inferer.keep_graph()
        assert_same(inferer(inputs, network, *args, **kwargs), expected)
    assert graph.take(inputs) is not None


def test_default_inferer_is_the_simple_one(images):
    network = smooth_network(3).eval()
    with torch.no_grad():
        assert_same(mi.IFIMInferer()(images, network), SimpleInferer()(images, network))


def test_sliding_windows_are_differentiated_through(images):
    """The eigenspace belongs to the whole of the wrapped inferer, not to one window."""
    network = windows_network().eval()
    wrapped = PooledWindows((8, 7, 6), sw_batch_size=3)

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return wrapped(x, self.network)

    expected = mi.eigenspace(Whole(), images.as_tensor())
    batch = [{"image": images, "label": torch.zeros(2)}]
    for inferer in (mi.IFIMInferer(wrapped), wrapped):
        _, items = evaluate(network, batch, mi.IFIMHandler(), inferer=inferer)
        for i, item in enumerate(items):
            assert_close(item["ifim_eigenvalues"], expected.eigenvalues[i])
            assert_close(item["ifim_high"], expected.split(images.as_tensor())[0][i])


@pytest.mark.parametrize(("inferer", "passes"), [(mi.IFIMInferer(), 3), (None, 6)])
def test_one_forward_a_batch_with_the_inferer_and_two_without(tmp_path, inferer, passes):
    loader = DataLoader(dataset(write_scans(tmp_path, 3, count=5)), batch_size=2)
    network = smooth_network(3)
    calls = count_forwards(network)
    _, items = evaluate(network, loader, mi.IFIMHandler(), inferer=inferer)
    assert len(items) == 5
    assert len(calls) == passes + 1  # once for each network: do other images change the logits?


def test_evaluator_predicts_the_same_with_ifim(tmp_path):
    loader = DataLoader(dataset(write_scans(tmp_path, 3, count=5)), batch_size=2)
    network = smooth_network(3)
    _, expected = evaluate(network, loader)
    for inferer in (mi.IFIMInferer(), None):
        _, items = evaluate(network, loader, mi.IFIMHandler(), inferer=inferer)
        for item, other in zip(items, expected, strict=True):
            assert_same(item["pred"], other["pred"])
            assert_same(item["image"], other["image"])


def test_take_hands_over_once_and_only_for_its_own_tensor(images):
    network, inferer = smooth_network(3).eval(), mi.IFIMInferer()
    graph = inferer.keep_graph()
    with torch.no_grad():
        inferer(images, network)
        assert graph.take(images.clone()) is None
        assert graph.take(images) is None
        inferer(images, network)
        leaf, output = graph.take(images)
        assert graph.take(images) is None
    assert torch.equal(leaf, images.as_tensor())
    # The graph leads to the image alone: no parameter's gradient can ever be computed on it.
    weight = network[0].weight
    gradient, none = torch.autograd.grad(output.sum(), (leaf, weight), allow_unused=True)
    assert gradient.abs().max() > 0
    assert none is None
    assert weight.requires_grad


def test_a_failed_call_leaves_no_older_graph_behind(images):
    network, inferer = smooth_network(3).eval(), mi.IFIMInferer()
    graph = inferer.keep_graph()
    with torch.no_grad():
        inferer(images, network)
        with pytest.raises(RuntimeError):
            inferer(images[:, :, :2], network)
        assert graph.take(images) is None
    assert all(p.requires_grad for p in network.parameters())


class Activations(nn.Module):
    """Notes weak references to what its graph holds."""

    def __init__(self):
        super().__init__()
        self.body, self.seen = smooth_network(3), []

    def forward(self, x):
        hidden = self.body[:2](x)
        self.seen.append(weakref.ref(hidden))
        return self.body[2:](hidden)


@pytest.mark.parametrize("inferer", [mi.IFIMInferer(), None])
def test_the_graph_is_released(tmp_path, inferer):
    loader = DataLoader(dataset(write_scans(tmp_path, 3, count=3)), batch_size=2)
    network = Activations()
    alive_later = []

    class Later:
        def attach(self, engine):
            engine.add_event_handler("MODEL_COMPLETED", self.look)

        def look(self, engine):
            gc.collect()
            alive_later.append([ref() is not None for ref in network.seen])

    evaluate(network, loader, mi.IFIMHandler(), inferer=inferer, more_handlers=[Later()])
    assert alive_later
    assert not any(any(row) for row in alive_later)


def test_take_releases_the_graph(images):
    network, inferer = Activations().eval(), mi.IFIMInferer()
    graph = inferer.keep_graph()
    with torch.no_grad():
        inferer(images, network)
    gc.collect()
    assert network.seen[0]() is not None
    graph.take(images)
    gc.collect()
    assert network.seen[0]() is None


def test_autocast_gives_the_hosts_prediction_and_float32_gradients(images):
    network = smooth_network(3).eval()
    expected = mi.eigenspace(network, images.as_tensor())
    batch = [{"image": images, "label": torch.zeros(2)}]
    inferer = mi.IFIMInferer()
    graph = inferer.keep_graph()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            prediction = SimpleInferer()(images, network)
            assert_same(inferer(images, network), prediction)
        assert graph.take(images) is None
        _, items = evaluate(network, batch, mi.IFIMHandler(), inferer=inferer)
    assert prediction.dtype == torch.bfloat16
    for i, item in enumerate(items):
        assert torch.equal(item["pred"], prediction[i].as_tensor())
        assert_close(item["ifim_eigenvalues"], expected.eigenvalues[i])


def noisy_network():
    """BatchNorm and dropout: what a pass in the wrong mode disturbs."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv3d(1, 4, 3),
            nn.BatchNorm3d(4),
            nn.Tanh(),
            nn.Dropout(0.4),
            nn.AdaptiveAvgPool3d(2),
            nn.Flatten(),
            nn.Linear(32, 3),
        )


@pytest.mark.parametrize("shared", [True, False])
def test_evaluator_in_train_mode(images, shared):
    """The host's prediction with dropout and batch statistics; ours in eval mode."""
    batch = [{"image": images, "label": torch.zeros(2)}]
    network, other = noisy_network(), noisy_network()
    torch.manual_seed(3)
    _, expected = evaluate(other, batch, mode="train")
    state = torch.get_rng_state()
    torch.manual_seed(3)
    inferer = mi.IFIMInferer() if shared else None
    _, items = evaluate(network, batch, mi.IFIMHandler(), inferer=inferer, mode="train")
    assert torch.equal(torch.get_rng_state(), state)
    for item, reference in zip(items, expected, strict=True):
        assert torch.equal(item["pred"], reference["pred"])
    for key, value in other.state_dict().items():
        assert torch.equal(network.state_dict()[key], value)
    assert network[1].num_batches_tracked == 1

    space = mi.eigenspace(network, images.as_tensor())
    for i, item in enumerate(items):
        assert_close(item["ifim_eigenvalues"], space.eigenvalues[i])


def test_gradients_on_leave_the_hosts_graph_alone(images):
    network = smooth_network(3).eval()
    other, inferer = copy.deepcopy(network), mi.IFIMInferer()
    graph = inferer.keep_graph()
    prediction = inferer(images, network)
    reference = SimpleInferer()(images, other)
    assert torch.equal(prediction, reference)
    assert graph.take(images) is None
    prediction.square().sum().backward()
    reference.square().sum().backward()
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)


@pytest.mark.parametrize("shared", [True, False])
def test_evaluator_under_inference_mode(tmp_path, shared):
    data = dataset(write_scans(tmp_path, 3, count=3))
    loader = DataLoader(data, batch_size=2)
    network = smooth_network(3)
    inferer = mi.IFIMInferer() if shared else None
    with torch.inference_mode():
        _, items = evaluate(network, loader, mi.IFIMHandler(), inferer=inferer)
    space = mi.eigenspace(network, torch.stack([d["image"].as_tensor() for d in data]))
    assert len(items) == 3
    for i, item in enumerate(items):
        assert_close(item["ifim_eigenvalues"], space.eigenvalues[i])


@pytest.mark.parametrize("inferer", [mi.IFIMInferer(), None])
def test_nothing_of_the_network_or_of_torch_changes(tmp_path, inferer):
    loader = DataLoader(dataset(write_scans(tmp_path, 3, count=3)), batch_size=2)
    network = noisy_network()
    network[0].weight.requires_grad_(False)
    network[6].bias.grad = torch.full((3,), 5.0)
    network[3].eval()
    # Ignite's run() and the loader draw numbers themselves: the state is compared where
    # nothing but the inferer and the handler has run in between.
    states = []

    class Around:
        def attach(self, engine):
            for event in ("ITERATION_STARTED", "MODEL_COMPLETED"):
                engine.add_event_handler(event, lambda _: states.append(torch.get_rng_state()))

    before = {key: value.clone() for key, value in network.state_dict().items()}
    flags = [p.requires_grad for p in network.parameters()]
    modes = [m.training for m in network.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()]
    grads = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    buffers = [id(b) for b in network.buffers()]

    evaluate(network, loader, mi.IFIMHandler(), inferer=inferer, more_handlers=[Around()])

    assert states
    assert all(torch.equal(a, b) for a, b in zip(states[::2], states[1::2], strict=True))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert [p.requires_grad for p in network.parameters()] == flags
    assert [id(b) for b in network.buffers()] == buffers
    assert modes[4] is False
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()] == hooks
    for parameter, grad in zip(network.parameters(), grads, strict=True):
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or torch.equal(parameter.grad, grad)


def test_training_flags_after_a_direct_call(images):
    """MONAI's own eval_mode() resets flags of the whole network; a direct call touches none."""
    network = noisy_network().eval()
    network[1].train()
    modes = [m.training for m in network.modules()]
    inferer = mi.IFIMInferer()
    graph = inferer.keep_graph()
    state = torch.get_rng_state()
    with torch.no_grad():
        expected = SimpleInferer()(images, copy.deepcopy(network))
        assert_same(inferer(images, network), expected)
    assert graph.take(images) is None  # a network partly in train mode is not shared
    assert [m.training for m in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_a_function_is_served_by_the_wrapped_inferer(images):
    inferer = mi.IFIMInferer()
    graph = inferer.keep_graph()
    with torch.no_grad():
        prediction = inferer(images, lambda x: x.flatten(1)[:, :3])
    assert torch.equal(prediction, images.flatten(1)[:, :3])
    assert graph.take(images) is None


def test_images_that_the_host_gave_are_not_edited(images):
    """An in-place first layer edits our copy, not the batch."""
    network = nn.Sequential(nn.ReLU(inplace=True), smooth_network(3)).eval()
    before, inferer = images.clone(), mi.IFIMInferer()
    graph = inferer.keep_graph()
    with torch.no_grad():
        inferer(images, network)
    assert graph.take(images) is not None
    assert torch.equal(images, before)
