"""Eight clients at once for a minute, and the PACS stops and starts in the middle of it.

``PACS_SECONDS=3600`` makes it an hour.
"""

import json
import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

import nibabel as nib
import numpy as np
import requests

from _helpers.orthanc import write_scan
from _helpers.servers import finished

SECONDS = float(os.environ.get("PACS_SECONDS", "60"))
MODEL, CLIENTS, IMAGES = "ifim_signal_3d", 8, 6


class Client:
    """One client, and what the server has acknowledged to it."""

    def __init__(self, number, server, images, label):
        self.number, self.server, self.images, self.label = number, server, images, label
        self.random = random.Random(number)
        self.infos, self.labels, self.answers, self.slowest = [], [], [], 0.0

    def ask(self, method, path, **options):
        start = time.monotonic()
        answer = requests.request(method, self.server.url + path, timeout=120, **options)
        self.slowest = max(self.slowest, time.monotonic() - start)
        self.answers.append((time.monotonic(), path.split("?")[0], answer.status_code))
        assert answer.status_code in (200, 429, 502, 504), (path, answer.text[:300])
        return answer.ok

    def step(self, count):
        image = self.random.choice(self.images)
        kind = self.random.choice(("infer", "info", "info", "label", "sample", "list", "score"))
        if kind == "infer":
            self.ask("post", f"/infer/{MODEL}?image={image}", data={"params": "{}"})
        elif kind == "info":
            name = f"c{self.number}_{count}"
            info = {"info": json.dumps({name: count})}
            if self.ask("put", f"/datastore/image/info?image={image}", data=info):
                self.infos.append((image, name, count))
        elif kind == "label":
            tag = f"c{self.number}"
            with open(self.label, "rb") as file:
                files = {"label": ("l.nii.gz", file)}
                params = {"params": json.dumps({"count": count})}
                url = f"/datastore/label?image={image}&tag={tag}"
                if self.ask("put", url, files=files, data=params):
                    self.labels = [each for each in self.labels if each[0] != image]
                    self.labels.append((image, tag, count))
        elif kind == "sample":
            self.ask("post", "/activelearning/ifim_trace", json={"model": MODEL, "reset": 0})
        elif kind == "list":
            self.ask("get", self.random.choice(("/datastore/?output=all", "/info/")))
        else:
            force = {"force": True, "max_samples": 2}
            self.ask("post", f"/scoring/{MODEL}", json=force)

    def run(self, end):
        count = 0
        while time.monotonic() < end:
            self.step(count)
            count += 1


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 600)
def test_no_score_is_lost(new_pacs, new_server, tmp_path):
    pacs = new_pacs()
    images = []
    for number in range(IMAGES):
        uid, _ = write_scan(tmp_path / str(number), (32, 32, 32), step=1 + number / 4)
        pacs.send_folder(tmp_path / str(number))
        images.append(uid)
    server = new_server(pacs, "pacs_seconds=30")  # on a busy machine, Orthanc takes its time
    before = server.temporary()
    nib.save(nib.Nifti1Image(np.ones((32, 32, 32), np.uint8), np.eye(4)), tmp_path / "l.nii.gz")
    clients = [Client(n, server, images, tmp_path / "l.nii.gz") for n in range(CLIENTS)]
    end, outage, waits = time.monotonic() + SECONDS, [], []

    def stop_and_start():
        time.sleep(SECONDS * 0.4)
        outage.append(time.monotonic())
        pacs.stop()
        time.sleep(min(8, SECONDS * 0.1))
        pacs.start()
        outage.append(time.monotonic())

    def watch():
        while time.monotonic() < end:
            start = time.monotonic()
            assert server.get("/health").ok
            waits.append(time.monotonic() - start)
            time.sleep(0.2)

    with ThreadPoolExecutor(CLIENTS + 2) as pool:
        tasks = [pool.submit(client.run, end) for client in clients]
        tasks += [pool.submit(stop_and_start), pool.submit(watch)]
        for task in tasks:
            task.result()

    objects = server.get("/datastore/?output=all").json()["objects"]
    for client in clients:
        for image, name, count in client.infos:
            assert objects[image]["image"]["info"][name] == count
        for image, tag, count in client.labels:
            assert objects[image]["labels"][tag]["info"]["count"] == count
    answers = [each for client in clients for each in client.answers]
    refused = [each for each in answers if each[2] in (502, 504)]
    late = [(w - outage[0], p, c) for w, p, c in refused if not outage[0] <= w <= outage[1] + 15]
    assert late == []  # only while the PACS was away
    assert refused

    status = finished(server, "/scoring/")
    assert status["status"] in ("DONE", "ERROR")
    last = server.post(f"/scoring/{MODEL}?run_sync=true").json()
    assert (last["failed"], last["unfit"], last["waiting"], last["stopped"]) == ({}, {}, 0, "")
    objects = server.get("/datastore/?output=all").json()["objects"]
    assert all(objects[i]["image"]["info"]["ifim"][MODEL]["trace"] > 0 for i in images)
    assert server.temporary() == before
    assert threading.active_count() < 20
    counts = Counter(status for _, _, status in answers)
    slowest = max(client.slowest for client in clients)
    print(f"{len(answers)} requests {dict(counts)}, the slowest {slowest:.1f} s")
    print(
        f"{sum(len(c.infos) for c in clients)} infos, none lost; health {max(waits):.2f} s at most"
    )
