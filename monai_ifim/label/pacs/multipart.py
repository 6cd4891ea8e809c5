"""The parts of a multipart answer, which may be larger than memory."""

from __future__ import annotations

import itertools
import mmap
import re
from collections.abc import Iterator
from email.message import Message
from pathlib import Path


class UnusableError(Exception):
    """What came in the place of objects, as a part of a sentence."""


def parts_of(file: Path, kind: str) -> Iterator[Path]:
    """Bodies of a multipart answer, as files beside it.

    Args:
        file: with the answer.
        kind: its content type, which names the boundary.

    Yields:
        Paths of the files, in order.

    Raises:
        UnusableError: it is none, is empty or ends early.
    """
    header = Message()
    header["Content-Type"] = kind or "application/octet-stream"
    boundary = header.get_param("boundary")
    if header.get_content_maintype() != "multipart" or not isinstance(boundary, str):
        raise UnusableError(f"an answer of the type {kind or 'unknown'}")
    if not file.stat().st_size:
        raise UnusableError("an empty answer")
    mark = re.escape(b"--" + boundary.encode())
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        marks = [(m.start(), m.end()) for m in re.finditer(rb"(?:\r\n|\A)" + mark, data)]
        if not marks or data[marks[-1][1] : marks[-1][1] + 2] != b"--":
            raise UnusableError("an answer that ends early")
        for number, ((_, start), (end, _)) in enumerate(itertools.pairwise(marks)):
            body = data.find(b"\r\n\r\n", start, end) + 4
            if body < 4:
                raise UnusableError("a part without a header")
            part = file.with_name(f"{number:06d}.dcm")
            part.write_bytes(data[body:end])
            yield part
