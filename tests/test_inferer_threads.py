"""What an inferer leaves behind in the thread of a host that it knows nothing of."""

import gc
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import DenseNet121
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.recorders import evaluate

THREADS = 100


class Watched(nn.Module):
    """A DenseNet, and weak references to what the graphs of its passes hold."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.body = DenseNet121(3, 1, 3, init_features=32, growth_rate=8, block_config=(2, 2))
        self.seen = []

    def forward(self, x):
        features = self.body.features(x)
        self.seen.append((weakref.ref(features), features.requires_grad))
        return self.body.class_layers(nn.functional.gelu(features))  # its gradient needs them


def alive(network):
    """How many of the activations seen are still there."""
    gc.collect()
    return sum(known() is not None for known, _ in network.seen)


def images_of(count, size=32):
    generator = torch.Generator().manual_seed(0)
    return [MetaTensor(torch.randn(1, size, size, size, generator=generator)) for _ in range(count)]


def host(inferer, network, image, transform=None):
    """The steps of a host without handlers; without the transform it never asks for a result."""
    with torch.no_grad():
        prediction = inferer(image[None], network)[0]
    return None if transform is None else transform({"image": image, "pred": prediction})


def memory():
    """Megabytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def in_threads(work, count=THREADS):
    """Run ``work(i)`` in that many threads, all alive until the last has ended its work."""
    done, let_go, errors = threading.Semaphore(0), threading.Event(), []

    def run(i):
        try:
            work(i)
        except Exception as error:
            errors.append(error)
        finally:
            done.release()
            let_go.wait(timeout=300)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for _ in threads:
        done.acquire()
    return threads, let_go, errors


ASKED = pytest.mark.parametrize("asked", [False, True], ids=["never asked", "asked"])


@ASKED
def test_a_hundred_threads_keep_no_graph(asked):
    network, inferer, image = Watched().eval(), mi.IFIMInferer(), images_of(1)[0]
    transform = mi.ComponentOfPredictiond("pred", inferer) if asked else None
    threads, let_go, errors = in_threads(lambda _: host(inferer, network, image, transform))
    try:
        assert alive(network) == 0  # while the threads are there, which own what they keep
    finally:
        let_go.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert len(network.seen) == THREADS * (2 if asked else 1)
    assert asked == any(with_graph for _, with_graph in network.seen)


@ASKED
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_memory_is_flat_over_a_hundred_threads(asked):
    network, inferer, image = Watched().eval(), mi.IFIMInferer(), images_of(1)[0]
    transform = mi.ComponentOfPredictiond("pred", inferer) if asked else None
    used = []
    for _ in range(THREADS):
        thread = threading.Thread(target=host, args=(inferer, network, image, transform))
        thread.start()
        thread.join()
        used.append(memory())
    # A graph of this network takes 3 MB: 250 MB for the last eighty.
    assert used[-1] - used[THREADS // 5] < 50


def test_a_graph_that_was_asked_for_lives_as_long_as_it_is_held():
    """The measure of the other tests sees a graph where there is one."""
    network, inferer, image = Watched().eval(), mi.IFIMInferer(), images_of(1)[0]
    graph = inferer.keep_graph()
    host(inferer, network, image)
    assert alive(network) == 1
    del graph
    assert alive(network) == 0
    host(inferer, network, image)
    assert network.seen[-1][1] is False


def test_evaluators_in_threads_release_their_graphs():
    network, inferer = Watched().eval(), mi.IFIMInferer()
    batch = [{"image": torch.stack(images_of(2)), "label": torch.zeros(2)}]
    expected = mi.eigenspace(network, batch[0]["image"].as_tensor()).trace
    network.seen.clear()
    found = {}

    def work(i):
        _, items = evaluate(network, batch, mi.IFIMHandler(), inferer=inferer)
        found[i] = torch.tensor([item["ifim_trace"] for item in items])

    # One engine sets and restores the mode of the network at a time.
    with ThreadPoolExecutor(1) as pool:
        list(pool.map(work, range(4)))
        assert alive(network) == 0
    assert any(with_graph for _, with_graph in network.seen)
    assert len(network.seen) == 4  # the passes of the inferer alone
    for trace in found.values():
        torch.testing.assert_close(trace, expected, rtol=1e-5, atol=0, check_dtype=False)


def test_a_pool_gives_every_image_its_own_result():
    network, inferer, images = smooth_network(3).eval(), mi.IFIMInferer(), images_of(40, size=12)
    transform = mi.ComponentOfPredictiond("pred", inferer)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda image: host(inferer, network, image, transform), images))
    for image, result in zip(images, found, strict=True):
        space = mi.eigenspace(network, image.as_tensor()[None])
        assert result["result"]["trace"] == pytest.approx(space.trace.item(), rel=1e-6)
        high, _ = space.split(image.as_tensor()[None])
        torch.testing.assert_close(result["pred"].as_tensor(), high[0], rtol=1e-5, atol=1e-6)


def test_a_result_is_taken_once():
    network, inferer, image = smooth_network(3).eval(), mi.IFIMInferer(), images_of(1, 12)[0]
    transform = mi.ComponentOfPredictiond("pred", inferer)
    data = host(inferer, network, image, transform)
    with pytest.raises(RuntimeError, match="expected a prediction that IFIMInferer made"):
        transform(data)


class Predicted:
    """A host that has just predicted an image."""

    def __init__(self):
        self.network, self.inferer = smooth_network(3).eval(), mi.IFIMInferer()
        self.transform = mi.ComponentOfPredictiond("pred", self.inferer)
        self.images = images_of(3, 12)
        host(self.inferer, self.network, self.images[0])

    def finish(self, image):
        return self.transform({"image": image, "pred": torch.zeros(4)})


def test_a_result_of_another_image_is_never_taken():
    """The post transforms of the first request failed; the second never came to the inferer."""
    predicted = Predicted()
    with pytest.raises(RuntimeError, match="expected the image that was predicted last"):
        predicted.finish(predicted.images[1])
    with pytest.raises(RuntimeError, match="expected a prediction that IFIMInferer made"):
        predicted.finish(predicted.images[0])  # it is gone, too


def test_the_next_call_drops_what_was_not_taken():
    predicted = Predicted()
    host(predicted.inferer, predicted.network, predicted.images[1])
    assert predicted.finish(predicted.images[1])["result"]["trace"] > 0
    host(predicted.inferer, predicted.network, predicted.images[0])
    with pytest.raises(RuntimeError), torch.no_grad():
        predicted.inferer(predicted.images[1][None, :, :2], predicted.network)
    with pytest.raises(RuntimeError, match="expected a prediction that IFIMInferer made"):
        predicted.finish(predicted.images[0])


def test_one_image_of_a_batch_is_refused():
    """Whose result it would be is not known."""
    predicted = Predicted()
    with torch.no_grad():
        predicted.inferer(torch.stack(predicted.images[:2]), predicted.network)
    with pytest.raises(RuntimeError, match="one image at a time"):
        predicted.finish(predicted.images[0])


def test_another_thread_has_no_result():
    predicted = Predicted()
    with ThreadPoolExecutor(1) as pool:
        error = pool.submit(predicted.finish, predicted.images[0]).exception()
    assert "in this thread, got none" in str(error)
    assert predicted.finish(predicted.images[0])["result"]["rank"] == 3


def test_what_a_call_was_given_goes_after_its_thread():
    network, inferer, values, seen = smooth_network(3).eval(), mi.IFIMInferer(), [], []

    def work():
        image = images_of(1, 12)[0]
        values.append(StorageWeakRef(image.untyped_storage()))
        host(inferer, network, image)
        del image
        gc.collect()
        seen.append(values[0].expired())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    host(inferer, network, images_of(1, 12)[0])  # drops what ended threads have left
    gc.collect()
    assert seen == [False]  # until then it may be asked for
    assert values[0].expired()


def test_a_request_that_is_never_finished_keeps_no_network():
    network, inferer = smooth_network(3).eval(), mi.IFIMInferer()
    known = weakref.ref(network)
    host(inferer, network, images_of(1, 12)[0])
    del network
    gc.collect()
    assert known() is None
    transform = mi.ComponentOfPredictiond("pred", inferer)
    with pytest.raises(RuntimeError, match="keep the network until here"):
        transform({"image": images_of(1, 12)[0], "pred": torch.zeros(4)})


# Threads that a host makes and ends in C, as Holoscan does: Python gives a thread up, and drops
# what it has stored, when the call from outside returns.
FOREIGN = """
import ctypes, sys
import torch
from torch import nn
import monai_ifim as mi
from _helpers.recorders import evaluate

mode = sys.argv[1]
network = nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.ReLU(),
                        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
inferer = mi.IFIMInferer(on_error="row")
transform = mi.ComponentOfPredictiond("pred", inferer)
image, count = torch.randn(1, 12, 12, 12), []
library = ctypes.CDLL(None)

@ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
def work(_):
    graph = inferer.keep_graph() if mode == "kept" else None
    if mode == "evaluator":
        batch = [{"image": image[None], "label": torch.zeros(1)}]
        evaluate(network, batch, mi.IFIMHandler(), inferer=inferer)
    with torch.no_grad():
        prediction = inferer(image[None], network)[0]
    if mode == "taken":
        transform({"image": image, "pred": prediction})
    count.append(1)

for _ in range(100):
    thread = ctypes.c_ulong()
    assert library.pthread_create(ctypes.byref(thread), None, work, None) == 0
    assert library.pthread_join(thread, None) == 0
print(len(count), "threads")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs pthreads")
@pytest.mark.parametrize("mode", ["left", "taken", "kept", "evaluator"])
def test_threads_that_c_code_ends(mode):
    command = [sys.executable, "-c", FOREIGN, mode]
    where = Path(__file__).parent
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "100 threads", done.stderr[-2000:]
