"""Reasons in one line: the true cause, also where MONAI hides it or an exception says nothing."""

import numpy as np
import pytest
from monai.data import ITKReader, MetaTensor, NibabelWriter
from monai.transforms import Compose, LoadImage, LoadImaged, SaveImage
from PIL import Image

from monai_ifim.messages import printable, reason

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")


def caught(function, *arguments):
    with pytest.raises(BaseException) as info:
        function(*arguments)
    return info.value


def test_the_reader_that_a_bundle_names_says_what_is_wrong(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    error = caught(LoadImage(reader="PILReader"), str(tmp_path / "a.png"))
    assert "install the reader libraries" in str(error)
    assert reason(error).startswith("UnidentifiedImageError: cannot identify image file")


def test_the_writer_says_why_it_failed(tmp_path):
    class Full(NibabelWriter):
        def write(self, filename, verbose=False, **kwargs):
            raise OSError(28, "No space left on device", filename)

    save = SaveImage(tmp_path, writer=Full, print_log=False)
    image = MetaTensor(np.zeros((1, 2, 2, 2), np.float32), meta={"filename_or_obj": "a.nii"})
    error = caught(save, image)
    assert "install the writer libraries" in str(error)
    assert reason(error).startswith("OSError: [Errno 28] No space left on device")


@pytest.mark.parametrize("name", ["a.tif", "a.xyz"])
def test_what_no_reader_takes_is_not_called_dicom(tmp_path, name):
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / name, format="TIFF")
    load = LoadImaged("image")
    # As where itk is not installed, which reads the one and tries the other.
    load._loader.readers = [r for r in load._loader.readers if not isinstance(r, ITKReader)]
    error = caught(Compose([load]), {"image": str(tmp_path / name)})
    assert "expected DICOM, or a format that an installed reader takes" in reason(error)
    assert "prefix" not in reason(error)


def test_an_exception_without_a_text_says_its_type_in_words():
    assert reason(MemoryError()) == "MemoryError: not enough memory"
    assert reason(NotImplementedError()) == "NotImplementedError: not implemented error"

    def silent():
        raise AssertionError

    assert reason(caught(silent)).startswith("AssertionError: assertion error in test_messages.py")


def test_an_exception_without_a_text_has_what_was_being_handled():
    def silent():
        try:
            raise ZeroDivisionError("voxel size 0")
        except ZeroDivisionError:
            raise RuntimeError  # noqa: B904 - as hosts do

    assert reason(caught(silent)) == "ZeroDivisionError: voxel size 0"


def test_a_sentence_is_kept_before_its_cause_and_its_context():
    def sentence():
        try:
            raise KeyError("dtype")
        except KeyError as error:
            raise ValueError("expected float32, got bfloat16; convert it") from error

    def wrapped():
        try:
            sentence()
        except ValueError as error:
            raise RuntimeError("applying transform X") from error

    assert reason(caught(wrapped)) == "ValueError: expected float32, got bfloat16; convert it"

    def unrelated():
        try:
            raise KeyError("a")
        except KeyError:
            raise OSError("disk full")  # noqa: B904 - as hosts do

    assert reason(caught(unrelated)) == "OSError: disk full"


def test_causes_in_a_circle_end():
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert reason(one) == "ValueError: two"


def test_reasons_and_names_are_printable():
    assert reason(ValueError("no \udcf6.png\x1b[31m")) == "ValueError: no \\udcf6.png\\x1b[31m"
    assert printable("a b\u60a3\u05d0.png") == "a b\u60a3\u05d0.png"
    assert printable("\u202ea\tb") == "\\u202ea\\tb"
