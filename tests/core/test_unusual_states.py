"""Exported modules, sparse and quantised buffers, and threads."""

import threading
import warnings

import pytest
import torch
from torch import nn

import monai_ifim as mi
from _helpers.problems import smooth_images


def small_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3)
        ).double()


def test_a_module_from_export():
    network, images = small_network().eval(), smooth_images(2)
    exported = torch.export.export(network, (images,)).module()
    torch.testing.assert_close(
        mi.eigenspace(exported, images).eigenvalues, mi.eigenspace(network, images).eigenvalues
    )


class Graph(nn.Module):
    """A graph network: a sparse adjacency matrix as its buffer."""

    def __init__(self, adjacency, change=False):
        super().__init__()
        self.register_buffer("adjacency", adjacency)
        self.head, self.change = nn.Linear(72, 3).double(), change

    def forward(self, x):
        if self.change:
            self.adjacency._values().add_(1)
        return self.head((self.adjacency @ x.flatten(1).T).T)


def adjacency():
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(72, 72, generator=generator, dtype=torch.float64)
    return torch.where(dense < 0.1, dense, 0)


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("kind", ["to_sparse_coo", "to_sparse_csr", "to_sparse_csc"])
def test_sparse_buffers(kind):
    dense, images = Graph(adjacency()), smooth_images(2)
    sparse = Graph(getattr(adjacency(), kind)())
    sparse.head = dense.head
    torch.testing.assert_close(
        mi.eigenspace(sparse, images).eigenvalues, mi.eigenspace(dense, images).eigenvalues
    )
    assert torch.equal(sparse.adjacency.to_dense(), adjacency())


def test_a_sparse_buffer_that_the_network_changes_is_restored():
    network = Graph(adjacency().to_sparse_coo().coalesce(), change=True)
    mi.eigenspace(network, smooth_images(2))
    assert torch.equal(network.adjacency.to_dense(), adjacency())


def test_a_quantised_buffer():
    network = small_network().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(torch.arange(4.0), 0.1, 0, torch.qint8)
    network.register_buffer("table", quantised)
    assert (mi.eigenspace(network, smooth_images(2)).rank == 2).all()
    assert network.table is quantised


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_quantised_layer_is_refused_with_its_reason():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)).eval()
    quantised = torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match=r"expected logits that depend on the images.*quantis"):
        mi.eigenspace(quantised, smooth_images(2, dtype=torch.float32))


def test_threads_on_one_network_in_train_mode():
    network, images = small_network().train(), smooth_images(2)
    expected = mi.eigenspace(network, images).eigenvalues
    found, modes = [], []

    def work():
        for _ in range(15):
            found.append(mi.eigenspace(network, images).eigenvalues)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    modes = [module.training for module in network.modules()]
    assert all(modes)
    assert all(p.requires_grad for p in network.parameters())
    assert len(found) == 60
    assert all(torch.equal(values, expected) for values in found)


def test_threads_on_networks_that_share_a_backbone():
    images = smooth_images(2)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(72, 6), nn.BatchNorm1d(6)).double()
    heads = [nn.Sequential(backbone, nn.Tanh(), nn.Linear(6, k).double()) for k in (2, 3, 4)]
    networks = [*heads, nn.Sequential(*heads[0])]
    for network in networks:
        network.train()
    expected = [mi.eigenspace(network, images).eigenvalues for network in networks]
    wrong = []

    def work(index):
        for _ in range(20):
            values = mi.eigenspace(networks[index], images).eigenvalues
            if not torch.equal(values, expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(networks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(module.training for network in networks for module in network.modules())
