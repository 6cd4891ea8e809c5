"""What a reader makes of a picture is the intensity that the picture shows, or a sentence."""

import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import Dataset, PILReader
from monai.transforms import Compose, EnsureChannelFirstd, Lambdad, LoadImaged, Resized
from PIL import Image

import monai_ifim as mi

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

GREY = (np.arange(9 * 14).reshape(9, 14) * 2 % 251).astype(np.uint8)  # rows, columns
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], -1)


def indexed(colours):
    """A picture in indexed colours with a palette in an order of its own."""
    rows = colours.reshape(-1, 3)
    palette, places = np.unique(rows, axis=0, return_inverse=True)
    palette, places = palette[::-1], len(palette) - 1 - places.ravel()
    picture = Image.new("P", colours.shape[1::-1])
    picture.putpalette(palette.astype(np.uint8).ravel().tolist())
    picture.putdata([int(place) for place in places])
    return picture


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def png_16(path, values):
    """A PNG with 16 bits for each channel of (H, W, channels), which Pillow cannot write."""
    height, width, channels = values.shape
    lines = values.astype(">u2").tobytes()
    step = width * channels * 2
    raw = b"".join(b"\0" + lines[i : i + step] for i in range(0, len(lines), step))
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in ((b"IHDR", head), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(name + content))
        data += struct.pack(">I", len(content)) + name + content + check
    Path(path).write_bytes(data)


def load(path):
    """Rows and columns, with the colours last."""
    image = mi.LoadPictured("image")({"image": str(path)})["image"]
    return np.moveaxis(image.numpy(), 0, 1)


def grey_colours():
    return np.repeat(GREY[..., None], 3, -1)


def opaque(values):
    return np.concatenate([values, np.full_like(values[..., :1], 255)], -1)


SAME_GREY = {
    "L.png": lambda path: Image.fromarray(GREY).save(path),
    "L.tif": lambda path: Image.fromarray(GREY).save(path),
    "indexed.png": lambda path: indexed(grey_colours()).save(path),
    "indexed.bmp": lambda path: indexed(grey_colours()).save(path),
    "indexed.gif": lambda path: indexed(grey_colours()).save(path),
    "rgb.png": lambda path: Image.fromarray(grey_colours()).save(path),
    "rgba.png": lambda path: Image.fromarray(opaque(grey_colours())).save(path),
    "la.png": lambda path: Image.fromarray(opaque(GREY[..., None])).save(path),
    "unused_key.png": lambda path: Image.fromarray(GREY).save(path, transparency=255),
    "white_is_0.tif": lambda path: Image.fromarray(GREY).save(path, tiffinfo={262: 0}),
    "cmyk.tif": lambda path: Image.fromarray(grey_colours()).convert("CMYK").save(path),
}


@pytest.mark.parametrize("name", SAME_GREY)
def test_a_grey_picture_is_grey_however_it_is_stored(tmp_path, name):
    SAME_GREY[name](tmp_path / name)
    np.testing.assert_array_equal(load(tmp_path / name), GREY)


@pytest.mark.parametrize("name", ["rgb.png", "rgb.bmp", "rgba.png", "indexed.png"])
def test_colours_stay_colours(tmp_path, name):
    picture = Image.fromarray(opaque(COLOUR) if "rgba" in name else COLOUR)
    if "indexed" in name:
        picture = indexed(COLOUR)
    picture.save(tmp_path / name)
    np.testing.assert_array_equal(load(tmp_path / name), COLOUR)


def test_words_bits_and_floats_keep_their_order(tmp_path):
    words = GREY.astype(np.uint16) * 257 + 3
    png_16(tmp_path / "words.png", words[..., None])
    np.testing.assert_array_equal(load(tmp_path / "words.png"), words)
    Image.fromarray(words).save(tmp_path / "words.tif")
    np.testing.assert_array_equal(load(tmp_path / "words.tif"), words)
    Image.fromarray(words).save(tmp_path / "white_is_0.tif", tiffinfo={262: 0})
    np.testing.assert_array_equal(load(tmp_path / "white_is_0.tif"), 65535 - words.astype(int))
    Image.fromarray(GREY > 100).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(load(tmp_path / "bits.png"), (GREY > 100) * 255)
    Image.fromarray(GREY / np.float32(3)).save(tmp_path / "floats.tif")
    np.testing.assert_array_equal(load(tmp_path / "floats.tif"), GREY / np.float32(3))


@pytest.mark.parametrize(
    ("orientation", "ending"),
    [*((i, "png") for i in range(1, 9)), *((i, "tif") for i in range(1, 5))],
)
def test_a_picture_is_upright(tmp_path, orientation, ending):
    """Stored the other way round, with the orientation that says so."""
    turned = {
        1: GREY,
        2: GREY[:, ::-1],
        3: GREY[::-1, ::-1],
        4: GREY[::-1],
        5: GREY.T,
        6: np.rot90(GREY, 1),
        7: GREY[::-1, ::-1].T,
        8: np.rot90(GREY, -1),
    }[orientation]
    path = tmp_path / f"turned.{ending}"
    options = {"exif": exif(orientation)} if ending == "png" else {"tiffinfo": {274: orientation}}
    Image.fromarray(np.ascontiguousarray(turned)).save(path, **options)
    np.testing.assert_array_equal(load(path), GREY)


def test_a_jpeg_in_cmyk_shows_what_it_shows(tmp_path):
    smooth = np.add.outer(np.arange(16) * 6, np.arange(24) * 5).astype(np.uint8)
    grey = Image.fromarray(np.repeat(smooth[..., None], 3, -1))
    grey.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98)
    values = load(tmp_path / "cmyk.jpg")
    assert np.abs(values - (smooth if values.ndim == 2 else smooth[..., None])).max() <= 4


def refused(name):
    """How to write a picture that is refused, and the words of the refusal."""
    glass = opaque(COLOUR)
    glass[2, 3, 3] = 254
    frames = [Image.fromarray(GREY), Image.fromarray(GREY.T.copy().reshape(GREY.shape))]
    return {
        "glass.png": (lambda p: Image.fromarray(glass).save(p), "cannot see through"),
        "key.png": (
            lambda p: Image.fromarray(GREY).save(p, transparency=int(GREY[1, 1])),
            "cannot see through",
        ),
        "glass_palette.png": (
            lambda p: indexed(COLOUR).save(p, transparency=b"\x80"),
            "cannot see through",
        ),
        "pages.tif": (
            lambda p: frames[0].save(p, save_all=True, append_images=frames[1:]),
            "expected one picture in the file, got 2",
        ),
        "words.png": (lambda p: png_16(p, COLOUR.astype(np.uint16) * 257), "got 16"),
        "grey_words.png": (lambda p: png_16(p, grey_colours().astype(np.uint16)), "got 16"),
        "on_its_side.tif": (
            lambda p: Image.fromarray(GREY).save(p, tiffinfo={274: 6}),
            "on its side",
        ),
        "lab.tif": (lambda p: Image.new("LAB", (5, 4)).save(p), "'LAB'"),
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "glass.png",
        "key.png",
        "glass_palette.png",
        "pages.tif",
        "words.png",
        "grey_words.png",
        "lab.tif",
        "on_its_side.tif",
    ],
)
def test_what_has_no_intensities_is_refused_in_a_sentence(tmp_path, name):
    write, words = refused(name)
    write(tmp_path / name)
    with pytest.raises(ValueError, match=words) as caught:
        load(tmp_path / name)
    assert str(caught.value).startswith("expected ")


def test_files_of_other_formats_are_read_as_ever(tmp_path):
    values = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([2, 3, 4, 1.0])), tmp_path / "a.nii.gz")
    item = {"image": str(tmp_path / "a.nii.gz")}
    ours, theirs = (kind("image")(item)["image"] for kind in (mi.LoadPictured, LoadImaged))
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(Exception, match="cannot identify image file"):
        load(tmp_path / "broken.png")


def test_readers_that_come_later_leave_pictures_alone(tmp_path):
    indexed(grey_colours()).save(tmp_path / "a.png")
    loader = mi.LoadPictured("image")
    loader.register(PILReader())
    values = loader({"image": str(tmp_path / "a.png")})["image"].numpy()
    np.testing.assert_array_equal(values, GREY.T)


def test_arrays_and_pictures_of_a_training_are_the_same(tmp_path):
    indexed(grey_colours()).save(tmp_path / "a.png")
    both = [str(tmp_path / "a.png"), GREY.T]
    loaded = [mi.LoadImageOrArrayd("image")({"image": each})["image"].numpy() for each in both]
    np.testing.assert_array_equal(*loaded)


def failures(path, *steps, loader=None):
    """Reasons of a loader over one file, read as another bundle reads it."""
    named = "PILReader" if path.suffix == ".tif" else None
    chain = [loader or LoadImaged("image", reader=named), EnsureChannelFirstd("image"), *steps]
    loader = mi.FaultTolerantDataLoader(Dataset([{"image": str(path)}], Compose(chain)))
    batches = list(loader)
    assert len(batches) + len(loader.failures) == 1
    return [failure.reason for failure in loader.failures]


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("p.png", lambda p: indexed(COLOUR).save(p), "indexed colours"),
        ("p.bmp", lambda p: indexed(COLOUR).save(p), "indexed colours"),
        ("c.jpg", lambda p: Image.fromarray(COLOUR).convert("CMYK").save(p), "CMYK"),
        (
            "pages.tif",
            lambda p: Image.fromarray(GREY).save(
                p, save_all=True, append_images=[Image.fromarray(GREY)]
            ),
            "expected one picture",
        ),
        (
            "w.tif",
            lambda p: Image.fromarray(GREY.astype(np.uint16)).save(p, tiffinfo={262: 0}),
            "0 is white",
        ),
        ("words.png", lambda p: png_16(p, COLOUR.astype(np.uint16) * 257), "8 bits"),
        ("e.jpg", lambda p: Image.fromarray(GREY).save(p, exif=exif(3)), "EXIF orientation 3"),
        ("e.png", lambda p: Image.fromarray(GREY).save(p, exif=exif(8)), "EXIF orientation 8"),
        (
            "a.png",
            lambda p: Image.fromarray(np.stack([GREY, GREY], -1)).save(p),
            "cannot see through",
        ),
    ],
)
def test_other_bundles_refuse_what_their_reader_gets_wrong(tmp_path, name, write, words):
    write(tmp_path / name)
    (text,) = failures(tmp_path / name, Resized("image", (6, 6)))
    assert words in text
    ours = failures(tmp_path / name, loader=mi.LoadPictured("image"))
    if any(text in words for text in ("see through", "one picture", "8 bits")):
        assert words in ours[0]
    else:
        assert ours == []
        assert "LoadPictured" in text


def test_other_bundles_keep_what_their_own_converter_makes(tmp_path):
    indexed(COLOUR).save(tmp_path / "p.png")
    reader = {"reader": "PILReader", "converter": lambda image: image.convert("RGB")}
    assert failures(tmp_path / "p.png", loader=LoadImaged("image", **reader)) == []
    Image.fromarray(COLOUR).save(tmp_path / "e.jpg", exif=exif(6))
    (text,) = failures(tmp_path / "e.jpg", loader=LoadImaged("image", **reader))
    assert "EXIF orientation 6" in text
    for name in ("L", "RGB", "RGBA"):
        values = {"L": GREY, "RGB": COLOUR, "RGBA": opaque(COLOUR)}[name]
        Image.fromarray(values).save(tmp_path / f"{name}.png")
        assert failures(tmp_path / f"{name}.png") == []


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("name", ["c.nii.gz", "c.npy"])
def test_complex_files_are_refused_unless_the_bundle_takes_care_of_them(tmp_path, dtype, name):
    values = (np.ones((4, 5, 6)) * (1 + 2j)).astype(dtype)
    if name.endswith("npy"):
        np.save(tmp_path / name, values)
    else:
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / name)
    with pytest.warns(np.exceptions.ComplexWarning):
        (text,) = failures(tmp_path / name)
    assert text.startswith("ValueError: expected real values, got a complex file")
    magnitude = Lambdad("image", lambda image: image.abs().float())
    loader = LoadImaged("image", dtype=np.complex64)
    assert failures(tmp_path / name, magnitude, loader=loader) == []
