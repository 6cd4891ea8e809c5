"""Every kind of source through every kind of preprocessing and back to the file's own grid.

Each cell is a run of a real evaluator: what is written has the shape and affine of the file, and
the components add up to the input on that grid, or the row says why nothing is written.
"""

import csv
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import Dataset
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    ConcatItemsd,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    Resized,
    ScaleIntensityd,
    Spacingd,
    SpatialPadd,
    SqueezeDimd,
)
from PIL import Image

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.recorders import evaluate
from _helpers.scans import oblique

# MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
pytestmark = [
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
    # Of the test's own Invertd, where there is nothing to undo.
    pytest.mark.filterwarnings("ignore:inverse has been called but no invertible"),
    # Orientationd on slices.
    pytest.mark.filterwarnings("ignore:axcodes .*length is smaller:UserWarning"),
]

RAS = {"axcodes": "RAS", "labels": (("L", "R"), ("P", "A"), ("I", "S"))}
SHAPE = (11, 9, 8)


def slopes(shape, number):
    """Values in 0..100 that rise along each axis at a pace of its own: no turn goes unnoticed."""
    paces = (1.0, 2.3, 0.6, 1.6)
    grid = np.indices(shape)
    rising = sum(p * g / max(n - 1, 1) for p, g, n in zip(paces, grid, shape, strict=False))
    values = rising + 0.05 * np.random.default_rng(number).standard_normal(shape)
    return 100 * (values - values.min()) / np.ptp(values)


def nifti(change=lambda image: None, shape=SHAPE, affine=None, endianness="<", dtype="f4"):
    """A writer of NIfTI files whose header ``change`` sets."""

    def write(stem, number):
        values = slopes(shape, number).astype(dtype)
        header = nib.Nifti1Header(endianness=endianness)
        header.set_data_dtype(np.dtype(dtype).newbyteorder(endianness))
        image = nib.Nifti1Image(values, oblique(number) if affine is None else affine, header)
        change(image)
        nib.save(image, f"{stem}.nii.gz")
        return f"{stem}.nii.gz"

    return write


def codes(qform, sform, other=None):
    """Set both codes; the quaternions hold ``other`` where it is given."""

    def change(image):
        affine = image.affine
        image.set_qform(affine if other is None else other, code=qform)
        image.set_sform(affine, code=sform)
        image.header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)

    return change


def qform_alone(image):
    image.set_qform(image.affine, code=1)
    image.set_sform(None, code=0)


def picture(channels):
    def write(stem, number):
        shape = (9, 11) if channels == 1 else (9, 11, channels)
        values = (2.5 * slopes(shape, number)).astype(np.uint8)
        Image.fromarray(values).save(f"{stem}.png")
        return f"{stem}.png"

    return write


def nrrd(stem, number):
    writer = pytest.importorskip("nrrd")
    values = slopes(SHAPE, number).astype(np.float32)
    header = {"space": "left-posterior-superior", "space origin": [1.0, 2, 3]}
    header["space directions"] = np.diag([0.8, 1.3, 2.1]).tolist()
    writer.write(f"{stem}.nrrd", values, header)
    return f"{stem}.nrrd"


OTHER = np.diag([0.8, 1.3, 2.1, 1.0])
SOURCES = {  # writer, channels, which axis is the single one
    "sform only": (nifti(codes(0, 1)), 1, None),
    "qform only": (nifti(qform_alone), 1, None),
    "both, unequal": (nifti(codes(1, 2, OTHER)), 1, None),
    "oblique": (nifti(), 1, None),
    "left-handed": (nifti(affine=np.diag([-2.0, 1.5, 3, 1])), 1, None),
    "micrometres": (nifti(lambda i: i.header.set_xyzt_units("micron", "sec")), 1, None),
    "int16 with slope": (nifti(lambda i: i.header.set_slope_inter(0.5, -3), dtype="i2"), 1, None),
    "big-endian": (nifti(endianness=">"), 1, None),
    "slice, first axis": (nifti(shape=(1, 11, 9)), 1, 0),
    "slice, second axis": (nifti(shape=(11, 1, 9)), 1, 1),
    "slice, third axis": (nifti(shape=(11, 9, 1)), 1, 2),
    "PNG, grey": (picture(1), 1, -1),
    "PNG, RGB": (picture(3), 3, -1),
    "NRRD": (nrrd, 1, None),
}


def resized(dims):
    return Resized("image", (10, 7, 6)[:dims], mode=("bilinear", "trilinear")[dims - 2])


def spacing(dims, key="image"):
    return Spacingd(key, (1.7, 1.1, 1.9)[:dims], mode="bilinear")


PREPROCESSINGS = {  # the steps before and after a single axis is dropped
    "none": lambda dims: [],
    "Spacingd": lambda dims: [spacing(dims)],
    "Orientationd, Spacingd": lambda dims: [Orientationd("image", **RAS), spacing(dims)],
    "crop, pad": lambda dims: [
        CenterSpatialCropd("image", (7, 8, 5)[:dims]),
        SpatialPadd("image", (12, 11, 9)[:dims]),
    ],
    "resize": lambda dims: [resized(dims)],
    "concatenation": None,
}


def pipeline(name, single):
    dims = 3 if single is None else 2
    drop = [] if single in (None, -1) else [SqueezeDimd("image", dim=single + 1)]
    if name == "concatenation":
        keys = ["a", "b"]
        steps = [Resized(keys, (10, 7, 6), mode="trilinear")] if dims == 3 else []
        own = [LoadImaged(keys), EnsureChannelFirstd(keys), *steps, ConcatItemsd(keys, "image")]
        return Compose([*own, *drop, ScaleIntensityd("image")])
    own = [LoadImaged("image"), EnsureChannelFirstd("image"), *drop]
    return Compose([*own, *PREPROCESSINGS[name](dims), ScaleIntensityd("image")])


def truth(path):
    """Values and affine of the file as a reader of its format has them."""
    if path.endswith(".nii.gz"):
        image = nib.load(path)
        return image.get_fdata(), image.affine
    image = LoadImaged("image")({"image": path})["image"]
    return image.numpy(), np.asarray(image.meta.get("original_affine", np.eye(4)))


COUNTS: Counter = Counter()


@pytest.fixture(scope="module", autouse=True)
def table():
    yield
    print("\n| source | preprocessing | on the grid | refused |\n| --- | --- | --- | --- |")
    for source in SOURCES:
        for name in PREPROCESSINGS:
            right, refused = (COUNTS[source, name, end] for end in ("right", "refused"))
            print(f"| {source} | {name} | {right} | {refused} |")


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("name", PREPROCESSINGS)
@pytest.mark.parametrize("source", SOURCES)
def test_on_the_files_grid_or_a_row_that_says_why_not(tmp_path, source, name, batch_size):
    write, channels, single = SOURCES[source]
    files = [write(tmp_path / f"s{i}", i) for i in range(4)]
    both = name == "concatenation"
    items = [{"a": f, "b": f} if both else {"image": f} for f in files]
    transform, out = pipeline(name, single), tmp_path / "out"
    save = mi.SaveComponentsd(["ifim_high", "ifim_orth"], out, transform)
    network = smooth_network(3 if single is None else 2, channels=channels * (1 + both))
    loader = mi.FaultTolerantDataLoader(Dataset(items, transform), batch_size=batch_size)
    evaluate(network, loader, mi.IFIMHandler(postprocessing=save, output_dir=out))
    with open(out / "ifim.csv", newline="") as table:
        rows = {row["file"]: row["status"] for row in csv.DictReader(table)}
    assert sorted(rows) == sorted(files)
    for file, item in zip(files, items, strict=True):
        written = sorted(out.glob(f"{Path(file).name.split('.')[0]}_*"))
        if rows[file] == "ok":
            wanted = None if both else inverted(transform, item)
            check(file, *map(nib.load, written), channels, wanted)
            COUNTS[source, name, "right"] += 1
        else:
            assert rows[file].startswith("failed:"), rows[file]
            assert "expected" in rows[file], rows[file]
            assert not written
            COUNTS[source, name, "refused"] += 1


def check(file, high, orth, channels, wanted):
    """Shape, affine and sum of the components; ``wanted`` is None where two images make one."""
    values, affine = truth(file)
    total = np.asarray(high.dataobj) + np.asarray(orth.dataobj)
    if channels > 1:  # (H, W, 1, C) of a NIfTI, (H, W, C) of a picture
        values = values[..., None, :]
    if wanted is None:
        values = np.concatenate([values.reshape(*total.shape[:3], -1)] * 2, axis=-1)
    assert total.shape == values.shape
    for volume in (high, orth):
        np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    inside = total != 0  # not where a crop took something away
    assert np.corrcoef(total[inside], values[inside])[0, 1] > 0.95
    if wanted is not None:
        wanted = np.moveaxis(wanted, 0, -1).reshape(total.shape)
        assert np.abs(total - wanted).max() <= 1e-5 * np.abs(wanted).max()


def inverted(transform, item):
    """The network's input on the grid of the file, by MONAI's own inverse."""
    return Invertd("image", transform, nearest_interp=False)(transform(item))["image"].numpy()
