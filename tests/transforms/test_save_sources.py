"""What is written beside a file, against that file: grid, header, names; or the row's reason."""

import csv
import errno
import gzip
import os
import re
from contextlib import nullcontext
from functools import partial

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, PersistentDataset, pad_list_data_collate
from monai.transforms import (
    Compose,
    ConcatItemsd,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    MapTransform,
    Orientationd,
    Resized,
    ScaleIntensityd,
    Spacingd,
    SqueezeDimd,
)
from PIL import Image

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.recorders import evaluate
from _helpers.scans import oblique, write_scan
from _helpers.volumes import loading

# MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

KEYS = ["ifim_high", "ifim_orth"]
SHAPE = (13, 11, 9)
PIR = {"axcodes": "PIR", "labels": (("L", "R"), ("P", "A"), ("I", "S"))}


def serve(out, items, transform, loader=mi.FaultTolerantDataLoader, network=None, **options):
    """Statuses in the order of the rows, with their files, and the volumes that were written."""
    dataset = options.pop("dataset", Dataset)(items, transform)
    dims, channels = options.pop("dims", 3), options.pop("channels", 1)
    save = mi.SaveComponentsd(KEYS, out, transform)
    network = network or smooth_network(dims, channels=channels)
    handler = mi.IFIMHandler(postprocessing=save, output_dir=out)
    evaluate(network, loader(dataset, **options), handler)
    with open(out / "ifim.csv", newline="") as table:
        rows = [(row["file"], row["status"]) for row in csv.DictReader(table)]
    return rows, {path.name: nib.load(path) for path in sorted(out.rglob("*.nii.gz"))}


def on_the_grid(file, volumes, stem="scan"):
    """Both components have the file's shape, affine and, turned by nothing, its values."""
    own, high, orth = nib.load(file), *(volumes[f"{stem}_{key}.nii.gz"] for key in KEYS)
    np.testing.assert_array_equal(high.affine, own.affine)
    np.testing.assert_array_equal(orth.affine, own.affine)
    assert high.shape == orth.shape == own.shape
    total = high.get_fdata() + orth.get_fdata()
    return np.corrcoef(total.ravel(), own.get_fdata().ravel())[0, 1]


@pytest.mark.parametrize("loader", [mi.FaultTolerantDataLoader, DataLoader])
@pytest.mark.parametrize("steps", [[], [Resized("image", (9, 10, 8), mode="trilinear")]])
def test_a_cache_that_forgets(tmp_path, loader, steps):
    files = [write_scan(tmp_path / f"s{i}.nii.gz", SHAPE, i) for i in range(3)]
    items, transform = [{"image": file} for file in files], loading(*steps)
    cached = partial(PersistentDataset, cache_dir=tmp_path / "cache")
    for run in ("first", "second"):
        rows, written = serve(
            tmp_path / run, items, transform, loader, dataset=cached, batch_size=2
        )
        assert [file for file, _ in rows] == files
    assert not written
    assert all("track_meta=True" in status for _, status in rows)
    keeps = partial(cached, cache_dir=tmp_path / "kept", track_meta=True, weights_only=False)
    for run in ("third", "fourth"):
        rows, written = serve(tmp_path / run, items, transform, loader, dataset=keeps)
        assert [status for _, status in rows] == ["ok"] * 3
        assert on_the_grid(files[0], written, "s0") > 0.9


def test_arrays_keep_their_running_numbers(tmp_path):
    items = [{"image": torch.rand(1, *SHAPE)} for _ in range(2)]
    rows, written = serve(tmp_path, items, Compose([ScaleIntensityd("image")]))
    assert rows == [("image 0", "ok"), ("image 1", "ok")]
    assert sorted(written) == sorted(f"{i}_{key}.nii.gz" for i in range(2) for key in KEYS)


@pytest.mark.parametrize("method", ["symmetric", "end"])
@pytest.mark.parametrize("steps", [[], [Orientationd("image", **PIR)]])
def test_padding_of_a_batch_is_cut_off(tmp_path, method, steps):
    shapes = [(13, 11, 9), (10, 12, 8), (12, 9, 11)]
    files = [write_scan(tmp_path / f"s{i}.nii.gz", s, i) for i, s in enumerate(shapes)]
    collate = partial(pad_list_data_collate, method=method)
    items = [{"image": file} for file in files]
    rows, written = serve(
        tmp_path / "out", items, loading(*steps), DataLoader, batch_size=3, collate_fn=collate
    )
    assert [status for _, status in rows] == ["ok"] * 3
    for i, file in enumerate(files):
        assert on_the_grid(file, written, f"s{i}") > 0.999


def test_images_concatenated_from_other_keys(tmp_path):
    keys = ["flair", "dwi"]
    files = {key: write_scan(tmp_path / f"{key}.nii.gz", SHAPE, 2) for key in keys}
    transform = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            Orientationd(keys, **PIR),
            Spacingd(keys, (1.7, 1.1, 1.9)),
            ConcatItemsd(keys, "image"),
            Resized("image", (9, 10, 8), mode="trilinear"),
        ]
    )
    rows, written = serve(tmp_path / "out", [files], transform, channels=2)
    assert rows == [(files["flair"], "ok")]
    own, high = nib.load(files["flair"]), written["flair_ifim_high.nii.gz"]
    assert high.shape == (*SHAPE, 2)
    np.testing.assert_array_equal(high.affine, own.affine)
    total = high.get_fdata() + written["flair_ifim_orth.nii.gz"].get_fdata()
    for channel in range(2):
        assert np.corrcoef(total[..., channel].ravel(), own.get_fdata().ravel())[0, 1] > 0.7


@pytest.mark.parametrize("off", [1.01, 2.0])
@pytest.mark.parametrize("qform", [0, 1])
def test_an_sform_against_the_voxel_sizes(tmp_path, off, qform):
    """MONAI takes the quaternions then; the file's readers take the sform."""
    file = write_scan(tmp_path / "scan.nii.gz", SHAPE, 1)
    image = nib.load(file)
    image.set_qform(np.diag([0.8, 1.3, 2.1, 1]) * [off, off, off, 1], code=1)
    image.header["qform_code"] = qform
    nib.save(nib.Nifti1Image(image.get_fdata(), image.affine, image.header), tmp_path / "a.nii.gz")
    file = tmp_path / "a.nii.gz"
    rows, written = serve(tmp_path / "out", [{"image": str(file)}], loading())
    assert rows[0][1] == "ok"
    assert on_the_grid(file, written, "a") > 0.999


def test_a_reader_that_turns_the_voxels(tmp_path):
    file = str(tmp_path / "scan.nii.gz")
    affine = np.array([[0, -2.0, 0, 1], [0, 0, 1.5, 2], [3.0, 0, 0, 3], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random(SHAPE), affine), file)
    load = LoadImaged("image", reader="NibabelReader", as_closest_canonical=True)
    transform = Compose([load, EnsureChannelFirstd("image")])
    rows, written = serve(tmp_path / "out", [{"image": file}], transform)
    assert rows == [(file, "ok")]
    assert on_the_grid(file, written) > 0.999


@pytest.mark.parametrize(
    ("value", "reason"), [(np.nan, "expected a finite affine"), (0, "got the singular")]
)
def test_affines_that_place_nothing(tmp_path, value, reason):
    good, bad = (write_scan(tmp_path / f"{n}.nii.gz", SHAPE, 0) for n in ("good", "bad"))
    content = bytearray(gzip.decompress((tmp_path / "bad.nii.gz").read_bytes()))
    content[280:296] = np.full(4, value, "<f4").tobytes()
    (tmp_path / "bad.nii.gz").write_bytes(gzip.compress(content))
    items = [{"image": bad}, {"image": good}]
    rows, written = serve(tmp_path / "out", items, loading(), batch_size=2)
    assert rows[1] == (good, "ok")
    assert reason in rows[0][1]
    assert "repair its header" in rows[0][1]
    assert list(written) == [f"good_{key}.nii.gz" for key in KEYS]


class Part(MapTransform):
    """Takes a part of the image, and has no inverse."""

    def __init__(self, keys, take):
        super().__init__(keys)
        self.take = take

    def __call__(self, data):
        return {**data, "image": self.take(data)}


def test_a_crop_without_an_inverse(tmp_path):
    file = write_scan(tmp_path / "scan.nii.gz", SHAPE, 0)
    crop = Part("image", lambda data: data["image"][:, 1:])
    rows, written = serve(tmp_path / "out", [{"image": file}], loading(crop))
    assert not written
    assert "expected the shape (13, 11, 9) of scan.nii.gz, got (12, 11, 9)" in rows[0][1]


def test_time_points_of_one_file(tmp_path):
    file = write_scan(tmp_path / "scan.nii.gz", (*SHAPE, 3), 0)
    times = Part("image", lambda data: data["image"][data["t"] : data["t"] + 1])
    items, transform = [{"image": file, "t": t} for t in range(3)], loading(times)
    for _ in range(2):  # a second run replaces its own files
        rows, written = serve(tmp_path / "out", items, transform, batch_size=2)
        assert rows == [(file, "ok")] * 3
        assert len(written) == 6
    for t, end in enumerate(["", "_1", "_2"]):
        parts = [written[f"scan_{key}{end}.nii.gz"] for key in KEYS]
        wanted = nib.load(file).get_fdata()[..., t]
        assert np.abs(sum(p.get_fdata() for p in parts) - wanted).max() < 1e-5


def test_without_a_handler_equal_images_share_a_name_and_others_do_not(tmp_path):
    item = loading()({"image": write_scan(tmp_path / "scan.nii.gz", SHAPE, 0)})
    save = mi.SaveComponentsd("image", tmp_path / "out", None)
    save(item)
    save(item)
    save(item | {"image": item["image"] + 1})
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["scan_image.nii.gz", "scan_image_1.nii.gz"]


def test_patches_carry_their_numbers(tmp_path):
    item = loading()({"image": write_scan(tmp_path / "scan.nii.gz", SHAPE, 0)})
    save = mi.SaveComponentsd("image", tmp_path / "out", None)
    for patch in (3, 5):
        item["image"].meta["patch_index"] = patch
        save(item)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["scan_image_3.nii.gz", "scan_image_5.nii.gz"]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_single_slices_among_pictures(tmp_path, axis):
    """In any order: what is written depends on no image before it."""
    shape = list(SHAPE[:2])
    shape.insert(axis, 1)
    file = write_scan(tmp_path / "slice.nii.gz", shape, 0)
    grey = tmp_path / "grey.png"
    Image.fromarray(np.arange(143, dtype=np.uint8).reshape(13, 11)).save(grey)

    class Squeeze(SqueezeDimd):
        def __call__(self, data):
            return super().__call__(data) if data["image"].ndim == 4 else data

    items = [{"image": str(f)} for f in (grey, file, grey, file)]
    transform = loading(Squeeze("image", dim=axis + 1), Resized("image", (12, 10), mode="bilinear"))
    rows, written = serve(tmp_path / "out", items, transform, dims=2)
    assert [status for _, status in rows] == ["ok"] * 4
    assert on_the_grid(file, written, "slice") > 0.8
    assert written["grey_ifim_high.nii.gz"].shape == (11, 13)
    np.testing.assert_array_equal(written["grey_ifim_high.nii.gz"].affine, np.eye(4))


def test_an_axis_that_is_dropped_after_a_turn(tmp_path):
    file = write_scan(tmp_path / "scan.nii.gz", (1, 13, 11), 0)
    drop = Part("image", lambda data: data["image"].squeeze())
    back = Part("image", lambda data: data["image"][None])
    transform = loading(Orientationd("image", **PIR), drop, back)
    rows, written = serve(tmp_path / "out", [{"image": file}], transform, dims=2)
    assert not written
    assert "use monai_ifim.SqueezeSingleSliced in its place" in rows[0][1]


@pytest.mark.parametrize("units", [("micron", "sec"), ("meter", "msec"), ("mm", "unknown")])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_the_header_is_the_sources(tmp_path, units, endianness):
    file = str(tmp_path / "scan.nii.gz")
    values = np.random.default_rng(0).random(SHAPE)
    image = nib.Nifti1Image(values, oblique(), nib.Nifti1Header(endianness=endianness))
    image.set_data_dtype(np.int16)
    image.header.set_xyzt_units(*units)
    image.header.set_intent("estimate", (), "perfusion")
    image.header["descrip"] = b"arterial phase"
    image.set_qform(oblique(1), code=3)
    image.set_sform(oblique(), code=4)
    image.header["pixdim"][1:4] = np.linalg.norm(oblique()[:3, :3], axis=0)
    nib.save(image, file)
    transform = loading(Spacingd("image", (1.7, 1.1, 1.9)))
    rows, written = serve(tmp_path / "out", [{"image": file}], transform)
    assert rows == [(file, "ok")]
    own, header = nib.load(file).header, written["scan_ifim_high.nii.gz"].header
    assert header.get_xyzt_units() == units
    assert header.get_intent() == own.get_intent()
    for field in ("qform_code", "sform_code", "quatern_b", "quatern_d", "qoffset_y", "srow_z"):
        np.testing.assert_array_equal(header[field], own[field])
    text = header["descrip"].tobytes().rstrip(b"\0").decode()
    assert re.fullmatch(r"iFIM high; \w+ [0-9a-f]{8}; research use only; arterial phase", text)
    assert header.get_data_dtype() == np.float32
    assert header.get_slope_inter() == (None, None)


@pytest.mark.filterwarnings("ignore:the network holds half-precision parameters:UserWarning")
def test_bfloat16(tmp_path):
    file = write_scan(tmp_path / "scan.nii.gz", SHAPE, 0)
    writer = mi.AtomicNibabelWriter(output_dtype=np.float16)
    writer.set_data_array(torch.ones(1, 5, 4, 3, dtype=torch.bfloat16))
    writer.set_metadata(None, resample=False)
    writer.write(tmp_path / "half.nii.gz")
    assert nib.load(tmp_path / "half.nii.gz").get_data_dtype() == np.float32
    half = loading(EnsureTyped("image", dtype=torch.bfloat16))
    rows, written = serve(
        tmp_path / "out", [{"image": file}], half, network=smooth_network(3).bfloat16()
    )
    assert rows[0][1] == "ok"
    assert on_the_grid(file, written) > 0.999


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "got a full disk"),
        (errno.EACCES, "may not write to"),
        (errno.EROFS, "read-only disk"),
    ],
)
def test_errors_of_the_disk_have_their_own_sentence(tmp_path, monkeypatch, number, reason):
    """Those that every further image would meet end the run at once."""
    file = write_scan(tmp_path / "scan.nii.gz", SHAPE, 0)

    def fail(self, file_map):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(nib.Nifti1Image, "to_file_map", fail)
    ends = pytest.raises(OSError, match=reason) if number != errno.EACCES else nullcontext()
    with ends:
        serve(tmp_path / "out", [{"image": file}], loading())
    with open(tmp_path / "out" / "ifim.csv", newline="") as table:
        statuses = [row["status"] for row in csv.DictReader(table)]
    assert any(reason in status for status in statuses)
    assert not any("writer" in status for status in statuses)
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_names_as_long_as_they_may_be(tmp_path):
    fits, too_long = (
        write_scan(tmp_path / f"{letter * n}.nii.gz", SHAPE, 0)
        for letter, n in (("a", 238), ("b", 239))
    )
    items = [{"image": fits}, {"image": too_long}]
    rows, written = serve(tmp_path / "out", items, loading())
    rows = dict(rows)
    assert rows[fits] == "ok"
    assert "expected a name of at most 255 bytes, got 256" in rows[too_long]
    assert len(written) == 2


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_slices_of_every_axis_and_flat_files_in_one_run(tmp_path, order):
    shapes = [(13, 11, 1), (13, 1, 11), (1, 13, 11), (13, 11)]
    files = [write_scan(tmp_path / f"s{i}.nii.gz", shapes[i], i) for i in order]
    transform = loading(mi.SqueezeSingleSliced("image"), Spacingd("image", (1.7, 1.1)))
    rows, written = serve(tmp_path / "out", [{"image": f} for f in files], transform, dims=2)
    assert dict(rows) == dict.fromkeys(files, "ok")
    for file in files:
        assert on_the_grid(file, written, os.path.basename(file).split(".")[0]) > 0.9
