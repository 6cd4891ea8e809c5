"""Many clients at once."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

import numpy as np

from _helpers.servers import infer


def test_fifty_requests_of_four_clients(server):
    before = server.temporary()
    asked = [
        ("ifim_signal_2d", f"signal2d_{i % 3}", ("high", "orth", "sensitivity")[i % 3], 1)
        if i % 2
        else ("ifim_hippocampus_3d", f"hippocampus_{i % 2}", ("high", "orth")[i % 2], 1 + i % 2)
        for i in range(50)
    ]

    def ask(request):
        model, image, component, rank = request
        params, got = infer(server, model, image, component=component, rank=rank)
        return params["trace"], params["eigenvalues"], got.get_fdata()

    serial = {request: ask(request) for request in set(asked)}
    waits, done = [], threading.Event()

    def watch():
        while not done.is_set():
            start = time.monotonic()
            assert server.get("/health").ok
            assert server.get("/info/").ok
            waits.append(time.monotonic() - start)
            time.sleep(0.05)

    with ThreadPoolExecutor(5) as pool:
        watcher = pool.submit(watch)
        answers = list(pool.map(ask, asked))
        done.set()
        watcher.result()
    for request, (trace, eigenvalues, values) in zip(asked, answers, strict=True):
        assert trace == pytest.approx(serial[request][0], rel=1e-6)
        assert eigenvalues == pytest.approx(serial[request][1], rel=1e-6)
        scale = np.abs(serial[request][2]).max()
        np.testing.assert_allclose(values, serial[request][2], atol=1e-6 * scale)
    assert len(waits) >= 3
    print(f"{len(waits)} health checks meanwhile, the slowest {max(waits):.2f} s")
    assert server.temporary() == before
