"""Real servers, each with an app, images and a temporary folder of its own."""

import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from _helpers.foreign_bundles import oblique, write_picture

BUNDLES = Path(__file__).parents[2] / "bundles"
OURS = ("ifim_signal_2d", "ifim_signal_3d", "ifim_mednist_2d", "ifim_hippocampus_3d")


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen
    port: int
    folder: Path

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def studies(self):
        return self.folder / "studies"

    def log(self):
        return (self.folder / "server.log").read_text()

    def temporary(self):
        """Every file in the server's temporary folder."""
        return sorted(p for p in (self.folder / "tmp").rglob("*") if p.is_file())

    def get(self, path, **options):
        import requests

        return requests.get(self.url + path, timeout=120, **options)

    def post(self, path, params=None, **options):
        import requests

        data = {} if params is None else {"data": {"params": params}}
        return requests.post(self.url + path, timeout=300, **data, **options)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(folder, command, path="/info/", **environment):
    """Start a server and wait until it answers at a path."""
    import requests

    (folder / "tmp").mkdir(exist_ok=True)
    port = free_port()
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp")}
    variables |= {"CUDA_VISIBLE_DEVICES": "", "HOME": str(folder), "PYTHONPATH": "", **environment}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "--port", str(port)],
            cwd=folder,
            env=variables,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = Server(process, port, folder)
    for _ in range(240):
        if process.poll() is not None:
            break
        try:
            if server.get(path).ok:
                return server
        except requests.ConnectionError:
            time.sleep(0.5)
    process.kill()
    raise RuntimeError(server.log()[-3000:])


def stop(server):
    server.process.send_signal(signal.SIGTERM)
    return server.process.wait(timeout=30)


def parts(answer):
    """Multipart answer as content by name."""
    found = {}
    for part in _decoded(answer):
        disposition = part.headers[b"Content-Disposition"].decode()
        found[disposition.split('name="')[1].split('"')[0]] = part.content
    return found


def parts_of(answer):
    """Contents of a multipart answer, in order."""
    return [part.content for part in _decoded(answer)]


def _decoded(answer):
    from requests_toolbelt.multipart import decoder

    return decoder.MultipartDecoder.from_response(answer).parts


def volume(content):
    """The image in the bytes of a ``.nii.gz``."""
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


def write_images(studies):
    """Small images for every bundle: ``signal2d_0`` and so on."""
    from monai_ifim.__main__ import main

    for task in ("2d", "3d"):
        folder = studies / task
        main(["signal-images", task, str(folder), "--count", "3"])
        for i, file in enumerate(sorted(folder.glob("*.nii.gz"))):
            image = nib.load(file)
            affine = image.affine if task == "2d" else np.diag([-1.5, 1.5, 1.5, 1.0])
            values = image.get_fdata(dtype=np.float32)
            nib.save(nib.Nifti1Image(values, affine), studies / f"signal{task}_{i}.nii.gz")
        shutil.rmtree(folder)
    for i in range(2):
        write_picture(studies / f"mednist_{i}.png", i, (64, 61))
        random = np.random.default_rng(i)
        values = random.standard_normal((20 + i, 19, 22)).cumsum(0).astype(np.float32)
        nib.save(nib.Nifti1Image(values, oblique(i)), studies / f"hippocampus_{i}.nii.gz")


def infer(server, model, image, **params):
    """Numbers and volume of one inference."""
    answer = server.post(f"/infer/{model}?image={image}", json.dumps(params))
    assert answer.status_code == 200, answer.text
    found = parts(answer)
    return json.loads(found["params"]), volume(found["image"])


def finished(server, path):
    """Status of a background task, once it has ended."""
    for _ in range(120):
        status = server.get(path).json()
        if status.get("status") not in ("SUBMITTED", "RUNNING"):
            return status
        time.sleep(0.5)
    raise TimeoutError(status)
