"""guides/deploy.md: its command, what it reads back, and its application of one's own."""

import contextlib
import io
from importlib.util import find_spec

import pydicom
import pytest

from _helpers.deploy import ROOT, run_application, write_study
from _helpers.pages import blocks, environment, shell

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("holoscan") is None,
        reason="the MONAI Deploy App SDK has an environment of its own: make deploy-test",
    ),
]
PAGE = "guides/deploy.md"


def test_the_page(tmp_path, monkeypatch):
    write_study(tmp_path / "study")
    (tmp_path / "bundles").symlink_to(ROOT / "bundles")
    (command,) = blocks(PAGE, "bash")
    shell(command, tmp_path, environment(tmp_path) | {"OMP_NUM_THREADS": "1"})
    monkeypatch.chdir(tmp_path)
    read_back, application = blocks(PAGE, "python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(read_back, PAGE, "exec"), {})
    assert [printed.getvalue()] == blocks(PAGE, "text")

    (tmp_path / "app.py").write_text(application)
    script, bundle = (tmp_path / "app.py",), ROOT / "bundles" / "ifim_signal_3d"
    done = run_application("-i", "study", "-o", "own", "-m", bundle, script=script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    made = {path.name for path in (tmp_path / "own").iterdir()}
    assert made == {
        *("ifim_high.dcm", "ifim_sensitivity.dcm", "ifim_numbers.dcm", "ifim_numbers.json")
    }
    assert (
        pydicom.dcmread(tmp_path / "own" / "ifim_sensitivity.dcm").ContentLabel[:9] == "IFIM_SENS"
    )
