"""Files, names and configurations of strangers: no code runs, nothing leaves a folder."""

import gzip
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from monai.data import Dataset
from monai.transforms import Compose, LoadImaged

import monai_ifim as mi
from _helpers.dicom import write_slice
from _helpers.scans import write_scans
from monai_ifim.bundle.configuration import BundleConfiguration
from monai_ifim.data.layouts import DistinctFolderLayout
from monai_ifim.data.sources.limits import RefusedError, check_source
from monai_ifim.experiments.steps import Steps
from monai_ifim.runs.weights import load_weights

ROOT = Path(__file__).parents[1]


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.fixture
def mark(tmp_path):
    """What a payload would make; it must not be there afterwards."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


def test_the_payload_is_one(tmp_path):
    torch.save(Payload(tmp_path / "executed"), tmp_path / "a.pt")
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("old", [False, True])
def test_weights_of_a_network(tmp_path, mark, old):
    content = {"weight": torch.zeros(3, 2), "bias": Payload(mark)}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError, match=r"expected weights .* pickled objects.*; save the") as got:
        load_weights(torch.nn.Linear(2, 3), tmp_path / "w.pt")
    assert "weights_only" not in str(got.value)  # how to load it all the same


def test_weights_of_a_bundle(tmp_path, mark):
    bundle = tmp_path / "bundle"
    source = ROOT / "bundles" / "ifim_signal_2d"
    (bundle / "models").mkdir(parents=True)
    (bundle / "configs").symlink_to(source / "configs")
    torch.save({"model": Payload(mark)}, bundle / "models" / "model.pt")
    with pytest.raises(ValueError, match=r"expected weights .* pickled objects.*; save the"):
        BundleConfiguration(bundle).network("cpu")


def test_weights_that_are_none(tmp_path):
    bundle = tmp_path / "bundle"
    (bundle / "models").mkdir(parents=True)
    (bundle / "configs").symlink_to(ROOT / "bundles" / "ifim_signal_2d" / "configs")
    torch.save([torch.zeros(3)], bundle / "models" / "model.pt")
    with pytest.raises(ValueError, match=r"expected a state dictionary in .*, got a list; save"):
        BundleConfiguration(bundle).network("cpu")


def test_a_kept_step_of_an_experiment(tmp_path, mark):
    steps = Steps(tmp_path / "steps")
    steps.run("sum", {"a": 1}, lambda: 2)
    (file,) = (tmp_path / "steps").iterdir()
    torch.save({"value": Payload(mark), "seconds": 1.0}, file)
    said = []
    assert Steps(tmp_path / "steps", said.append).run("sum", {"a": 1}, lambda: 3) == 3
    assert "damaged and computed anew" in said[0]


def test_a_pooled_eigenspace(tmp_path, mark):
    torch.save({"a": Payload(mark)}, tmp_path / "pooled.safetensors")
    with pytest.raises(ValueError, match="expected"):
        mi.PooledEigenspace.load(tmp_path / "pooled.safetensors")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("allow", [False, True])
def test_images_that_are_pickles(tmp_path, mark, suffix, allow):
    objects = np.array([Payload(mark), None], dtype=object)
    path = tmp_path / f"scan{suffix}"
    np.save(path, objects) if suffix == ".npy" else np.savez(path, objects)
    good = tmp_path / f"good{suffix}"
    numbers = np.arange(6.0).reshape(2, 3)
    np.save(good, numbers) if suffix == ".npy" else np.savez(good, numbers)
    # A bundle's own reader may allow them.
    options = {"reader": "NumpyReader", "allow_pickle": True} if allow else {}
    data = Dataset([{"image": str(p)} for p in (path, good)], LoadImaged("image", **options))
    loader = mi.FaultTolerantDataLoader(data)
    assert [batch["image"].shape for batch in loader] == [(1, 2, 3)]
    (failure,) = loader.failures
    assert "expected an array of numbers, got one of Python objects: a pickle" in failure.reason


def hidden_pickles(folder, mark):
    """Files that NumPy takes for a pickle, or for an array of Python objects, at a second look."""
    payload = Payload(mark)
    for name in ("a.npy", "a.nii", "a.raw", "a.png", "a.npz"):
        (folder / name).write_bytes(pickle.dumps(payload))
    objects = io.BytesIO()
    np.save(objects, np.array([payload, None], dtype=object))
    with zipfile.ZipFile(folder / "b.npz", "w") as archive:
        archive.writestr("readme.txt", "arrays")
        archive.writestr("arr_0.npy", objects.getvalue())
        archive.writestr("arr_1", objects.getvalue())
    raw = objects.getvalue()
    length = int.from_bytes(raw[8:10], "little")
    header = raw[10 : 10 + length].rstrip(b"\n") + b" " * 20_000 + b"\n"
    size = len(header).to_bytes(2, "little")
    (folder / "c.npy").write_bytes(raw[:8] + size + header + raw[10 + length :])
    return sorted(folder.iterdir())


@pytest.mark.parametrize("options", [{}, {"reader": "NumpyReader", "allow_pickle": True}])
def test_pickles_under_other_names(tmp_path, mark, options):
    (tmp_path / "in").mkdir()
    files = hidden_pickles(tmp_path / "in", mark)
    np.save(tmp_path / "good.npy", np.arange(6.0).reshape(2, 3))
    load = Compose([LoadImaged("image", **options)])
    data = Dataset([{"image": str(p)} for p in (*files, tmp_path / "good.npy")], load)
    loader = mi.FaultTolerantDataLoader(data)
    assert [batch["image"].shape for batch in loader] == [(1, 2, 3)]
    assert [failure.file for failure in loader.failures] == [str(file) for file in files]
    assert not any("allow_pickle" in failure.reason for failure in loader.failures)


def test_arrays_that_claim_too_much(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(1000))
    with pytest.raises(RefusedError, match="expected at most 999 values"):
        check_source(tmp_path / "a.npy", 999)
    check_source(tmp_path / "a.npy", 1000)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    with pytest.raises(RefusedError, match="cut or its header is damaged"):
        check_source(tmp_path / "a.npy")
    np.savez(tmp_path / "b.npz", np.zeros(3))
    with zipfile.ZipFile(tmp_path / "b.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        np.save(tmp_path / "one.npy", np.zeros(1))
        archive.writestr("c.npy", (tmp_path / "one.npy").read_bytes() + bytes(10**6))
    with pytest.raises(RefusedError, match="bytes unpacked, got 1000"):
        check_source(tmp_path / "b.npz", 1000)


def test_a_dicom_element_that_claims_more_than_the_file(tmp_path):
    write_slice(tmp_path / "a.dcm")
    content = bytearray((tmp_path / "a.dcm").read_bytes())
    check_source(tmp_path / "a.dcm")
    place = content.find(b"\xe0\x7f\x10\x00OW") + 8
    content[place : place + 4] = (2**32 - 16).to_bytes(4, "little")
    (tmp_path / "a.dcm").write_bytes(content)
    with pytest.raises(RefusedError, match=r"expected elements that fit .*got one up to byte 4294"):
        check_source(tmp_path / "a.dcm")


def test_dicom_without_pixels_and_with_broken_ones(tmp_path):
    write_slice(tmp_path / "a.dcm", PixelData=None)
    with pytest.raises(RefusedError, match="got a size without pixels; copy the file again"):
        check_source(tmp_path / "a.dcm")
    shipped = Path(pydicom.data.__file__).parent / "test_files" / "JPEG2000.dcm"
    check_source(shipped)
    content = bytearray(shipped.read_bytes())
    item = content.find(b"\xfe\xff\x00\xe0", content.find(b"\xe0\x7f\x10\x00OB"))
    content[item : item + 4] = b"fx\x9c!"
    (tmp_path / "b.dcm").write_bytes(content)
    with pytest.raises(RefusedError, match="expected compressed pixels, got a damaged file"):
        check_source(tmp_path / "b.dcm")


def test_an_image_without_a_value_has_a_row_and_the_run_goes_on(tmp_path):
    files = write_scans(tmp_path, count=2)
    content = bytearray(gzip.decompress(Path(files[0]).read_bytes()))
    content[46:48] = bytes(2)
    Path(files[0]).write_bytes(gzip.compress(content))
    loader = mi.FaultTolerantDataLoader(Dataset([{"image": f} for f in files], LoadImaged("image")))
    assert len(list(loader)) == 1
    (failure,) = loader.failures
    assert "expected an image with values, got none in the shape" in failure.reason


def test_a_deflated_dicom_that_unpacks_to_much(tmp_path):
    write_slice(tmp_path / "a.dcm", PixelData=bytes(60), ImageComments="a" * 10_000)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "b.dcm")
    check_source(tmp_path / "b.dcm")
    dataset.add_new(0x00091010, "UN", bytes(2**20))
    dataset.save_as(tmp_path / "b.dcm")
    assert (tmp_path / "b.dcm").stat().st_size < 2**14
    with pytest.raises(RefusedError, match="expected a deflated file of at most"):
        check_source(tmp_path / "b.dcm", 1000)


@pytest.mark.parametrize("part", ["../../x", "a/b", "..\\x", "/etc/x", "a\0b"])
def test_what_ends_a_name_stays_in_the_folder(tmp_path, part):
    for options in ({"postfix": part}, {"extension": part}):
        with pytest.raises(ValueError, match=r"expected a part of a file name, got .*; choose the"):
            DistinctFolderLayout(tmp_path / "out", **options)
    layout = DistinctFolderLayout(tmp_path / "out", extension=".nii")
    for arguments in ({"idx": part}, {"kind": part}, {part: 1}):
        with pytest.raises(ValueError, match="expected a part of a file name"):
            layout.filename("scan.nii", **arguments)
    with pytest.raises(ValueError, match="expected a part of a file name"):
        mi.SaveComponentsd([part], tmp_path / "out", transform=None)
    assert not list(tmp_path.iterdir())


def test_a_link_in_the_place_of_a_result_is_replaced_and_not_followed(tmp_path):
    (file,) = write_scans(tmp_path / "in", count=1)
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "out").mkdir()
    link = tmp_path / "out" / "scan0_ifim_high.nii.gz"
    link.symlink_to(outside)
    image = LoadImaged("image", ensure_channel_first=True)({"image": file})["image"]
    save = mi.SaveComponentsd(["ifim_high"], tmp_path / "out", transform=None)
    save({"image": image, "ifim_high": image})
    assert outside.read_text() == "mine"
    assert link.is_file()
    assert not link.is_symlink()


OFFLINE = """
import sys
def refuse(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        raise AssertionError(f"{event} {arguments}")
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"):
        if isinstance(arguments[1], tuple):  # a text is a socket of this machine's own
            raise AssertionError(f"{event} {arguments}")
sys.addaudithook(refuse)
"""
RUN = """
import monai_ifim as mi
for name in mi.__all__:
    getattr(mi, name)
from monai_ifim.cli import main
status = main(["signal-images", "2d", "in", "--count", "2"])
status = status or main(["run", "--bundle", BUNDLE, "--input", "in", "--output", "out"])
sys.exit(status)
"""


def offline(script: str, folder: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", OFFLINE + script]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_import_and_run_make_no_connection(tmp_path):
    bundle = str(ROOT / "bundles" / "ifim_signal_2d")
    done = offline(f"BUNDLE = {bundle!r}\n{RUN}", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "AssertionError" not in done.stderr
    assert (tmp_path / "out" / "ifim.csv").exists()


@pytest.mark.parametrize(
    "attempt", ["create_connection(('127.0.0.1', 9))", "getaddrinfo('example.org', 80)"]
)
def test_a_connection_would_be_noticed(tmp_path, attempt):
    done = offline(f"import socket\nsocket.{attempt}\n", tmp_path)
    assert done.returncode == 1
    assert "AssertionError: socket." in done.stderr
