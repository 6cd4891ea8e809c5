"""The commands of docs/monai_label.md, run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

from _helpers.servers import BUNDLES, start, stop
from monai_ifim.__main__ import main

PAGE = Path(__file__).parents[2] / "docs" / "monai_label.md"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What ``make label`` serves."""
    folder = tmp_path_factory.mktemp("demo")
    bundles = [str(BUNDLES / f"ifim_signal_{task}") for task in ("2d", "3d")]
    main(["label-app", str(folder / "app"), "--bundle", bundles[0], "--bundle", bundles[1]])
    (folder / "studies").mkdir()
    for task in ("2d", "3d"):
        main(["signal-images", task, str(folder / task), "--count", "2"])
        for file in (folder / task).glob("*.nii.gz"):
            file.rename(folder / "studies" / f"{task}_{file.name}")
    command = ["monai_ifim", "label-server", "app", "studies"]
    server = start(folder, command, MONAI_LABEL_AUTO_UPDATE_SCORING="false")
    yield server
    stop(server)


@pytest.mark.parametrize("language", ["bash", "python"])
def test_blocks(demo, language, tmp_path):
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        code = block.replace("http://127.0.0.1:8000", demo.url)
        program = ["bash", "-euc"] if language == "bash" else [sys.executable, "-c"]
        result = subprocess.run(
            [*program, code], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert result.returncode == 0, f"{result.stdout}\n{result.stderr}\n{demo.log()[-2000:]}"
        assert "signal" in result.stdout
