"""Real NIfTI and DICOM files, and what a damaged disk or a hostile sender makes of them."""

from __future__ import annotations

import gzip
import random
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import pydicom

LARGEST = 300_000  # bytes of a file to begin with
NUMBERS = (0, 1, 2, 3, 7, 8, 255, 256, 4096, 32767, 32768, 65535)
LONGS = (0, 1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)
REALS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, -1e38, float("inf"), float("-inf"), float("nan"))
# Places of NIfTI-1: dimensions, datatype and bits, voxel sizes, where values begin, scaling, codes
# of the transforms, the transforms, magic.
NIFTI = {
    "<h": [*range(40, 56, 2), 70, 72, 252, 254],
    "<i": [0],
    "<f": [*range(76, 108, 4), 108, 112, 116, *range(256, 328, 4)],
    "<I": [344],
}
# Elements of DICOM whose value is two bytes: samples, planes, frames' size, bits, sign.
DICOM = {(0x28, element) for element in (0x02, 0x06, 0x10, 0x11, 0x100, 0x101, 0x102, 0x103)}
# And those whose value is text: frames, spacing, position, orientation, thickness, scaling, VOI.
TEXTS = {
    *((0x28, element) for element in (0x04, 0x08, 0x30, 0x1050, 0x1051, 0x1052, 0x1053)),
    *((0x20, element) for element in (0x32, 0x37, 0x0E, 0x52, 0x13)),
    *((0x18, element) for element in (0x50, 0x88)),
    *((0x02, element) for element in (0x02, 0x10)),
    *((0x08, element) for element in (0x05, 0x16, 0x60)),
}
WORDS = (
    b"",
    b"0",
    b"-1",
    b"nan",
    b"1e308",
    b"9" * 12,
    b"\\" * 8,
    b"../../x",
    b"\0\xff\xfe",
    b"=1+1",
)


def originals(made: Path) -> dict[str, bytes]:
    """Files of pydicom's and nibabel's tests, and of this project.

    Args:
        made: a folder of this project's signal images.

    Returns:
        Content by name; the name ends in ``.nii``, ``.nii.gz`` or ``.dcm``.
    """
    found: dict[str, bytes] = {}
    shipped = [Path(module.__file__).parent for module in (nibabel, pydicom)]
    for top in (*shipped, made):
        for path in sorted(top.rglob("*")):
            if path.is_file() and 0 < path.stat().st_size <= LARGEST:
                content = path.read_bytes()
                # Not every file of pydicom has pixels.
                nifti = path.name.endswith((".nii", ".nii.gz"))
                if nifti or (content[128:132] == b"DICM" and b"\xe0\x7f\x10\0" in content):
                    kind = ".dcm" if not nifti else ".nii.gz" if path.suffix == ".gz" else ".nii"
                    found[f"{len(found):03d}_{path.name.split('.')[0][:30]}{kind}"] = content
    return found


def flipped(content: bytearray, dice: random.Random) -> None:
    """Some bytes are others, more of them near the start, where headers are."""
    for _ in range(dice.choice((1, 2, 8, 64))):
        end = dice.choice((400, 2000, len(content)))
        content[dice.randrange(min(end, len(content)))] = dice.randrange(256)


def cut(content: bytearray, dice: random.Random) -> None:
    """The end is missing."""
    del content[
        dice.choice((dice.randrange(len(content)), dice.randrange(min(len(content), 600)))) :
    ]


def lengthened(content: bytearray, dice: random.Random) -> None:
    """A piece stands there twice."""
    start = dice.randrange(len(content))
    content[start:start] = content[start : start + dice.choice((1, 16, 4096))]


def blanked(content: bytearray, dice: random.Random) -> None:
    """A block is zero, or all ones."""
    start = dice.randrange(len(content))
    count = min(dice.choice((4, 128, 512, 4096)), len(content) - start)
    content[start : start + count] = dice.choice((b"\0", b"\xff")) * count


def hostile(content: bytearray, dice: random.Random) -> None:
    """Fields of the header hold extreme values."""
    dicom = content[128:132] == b"DICM"
    for _ in range(dice.choice((1, 1, 2, 4))):
        (_hostile_dicom if dicom else _hostile_nifti)(content, dice)


def _hostile_nifti(content: bytearray, dice: random.Random) -> None:
    kind = dice.choice(list(NIFTI))
    place = dice.choice(NIFTI[kind])
    value: float = dice.choice(REALS)
    if kind == "<h":
        value = dice.choice(NUMBERS)
        value -= 65536 * (value > 32767)
    elif kind != "<f":
        value = dice.choice(LONGS)
        value -= 2**32 * (kind == "<i" and value > 2**31 - 1)
    if len(content) >= place + struct.calcsize(kind):
        struct.pack_into(kind, content, place, value)


def _hostile_dicom(content: bytearray, dice: random.Random) -> None:
    group, element = dice.choice(sorted(DICOM | TEXTS))
    place = content.find(struct.pack("<HH", group, element), 132)
    if place < 0 or place + 16 > len(content):
        return
    explicit = content[place + 4 : place + 6].isalpha()
    width = 2 if explicit else 4
    length = int.from_bytes(content[place + 8 - width : place + 8], "little")
    if dice.random() < 0.2:  # its length is a lie
        lie = dice.choice(LONGS) % 2 ** (8 * width)
        content[place + 8 - width : place + 8] = lie.to_bytes(width, "little")
    elif (group, element) in DICOM:
        content[place + 8 : place + 10] = struct.pack("<H", dice.choice(NUMBERS))
    else:
        word = dice.choice(WORDS)[:length].ljust(length, b" ")
        content[place + 8 : place + 8 + length] = word[: len(content)]


MUTATIONS: dict[str, Callable[[bytearray, random.Random], None]] = {
    "flipped": flipped,
    "cut": cut,
    "lengthened": lengthened,
    "blanked": blanked,
    "hostile": hostile,
}


def mutated(name: str, content: bytes, how: str, dice: random.Random) -> bytes:
    """A damaged file.

    Args:
        name: of the original; a compressed one is mostly damaged before it is compressed.
        content: of the original.
        how: of ``MUTATIONS``.
        dice: decides.

    Returns:
        The content.
    """
    inside = name.endswith(".gz") and (how == "hostile" or dice.random() < 0.7)
    try:
        plain = bytearray(gzip.decompress(content) if inside else content)
    except (OSError, EOFError):  # a damaged file to begin with
        plain, inside = bytearray(content), False
    MUTATIONS[how](plain, dice)
    return gzip.compress(bytes(plain), 1) if inside else bytes(plain)
