"""What the server leaves in its temporary folder; the last file, so after all other requests."""

import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

from _helpers.servers import infer


def test_nothing_is_left_behind(server):
    """Only what MONAI Label keeps of its own start."""
    infer(server, "ifim_signal_2d", "signal2d_0", component="sensitivity")
    server.post("/infer/ifim_signal_2d", files={"file": ("x.nii.gz", b"content")})
    server.post("/batch/infer/ifim_signal_2d?run_sync=true")
    left = [p for p in server.temporary() if "inductor" not in str(p)]
    assert [p.suffix for p in left] in ([], [".json"])  # the logging configuration
    assert not list(server.studies.rglob(".partial*"))
