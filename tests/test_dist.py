"""Two builds of wheel and sdist have the same bytes."""

import gzip
import importlib.util
import io
import tarfile

import pytest

from benchmarks import dist


def archive(time, owner, names):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as new:
        for name in names:
            member = tarfile.TarInfo(name)
            member.mtime, member.uname, member.size = time, owner, len(name)
            new.addfile(member, io.BytesIO(name.encode()))
    return packed.getvalue()


def test_an_sdist_does_not_say_when_and_by_whom_it_was_built():
    one, other = archive(1, "a", ["x", "y"]), archive(1.5e9, "b", ["y", "x"])
    assert one != other
    assert dist.repacked(one, 7) == dist.repacked(other, 7)
    with tarfile.open(fileobj=io.BytesIO(dist.repacked(one, 7))) as made:
        assert made.getnames() == ["x", "y"]
        assert made.extractfile("x").read() == b"x"
        assert made.getmember("y").mtime == 7
    assert gzip.decompress(dist.repacked(one, 7)) != gzip.decompress(one)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="needs setuptools")
def test_two_builds(tmp_path):
    assert dist.main(tmp_path / "dist") == 0
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "dist").iterdir())
    assert names == ["monai_ifim", "monai_ifim"]
