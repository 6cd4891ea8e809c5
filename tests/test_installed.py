"""The built wheel in an empty environment outside the clone, with and without the scripts."""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ASSETS = ("niivue.js", "tabulator.js", "tabulator.css", "tabulator.LICENSE.txt")
# torch alone is installed in minutes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NETWORK = """
import torch

def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(4),
        torch.nn.Flatten(), torch.nn.Linear(64, 3),
    )
"""


def build(folder: Path, assets: bool) -> Path:
    """A wheel from a copy of what the repository has, and of nothing else."""
    source = folder / "source"
    shutil.copytree(ROOT / "monai_ifim", source / "monai_ifim",
                    ignore=shutil.ignore_patterns("__pycache__", *ASSETS))  # fmt: skip
    shutil.copytree(ROOT / "configs", source / "configs")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ASSETS if assets else ():
        fetched = ROOT / "monai_ifim" / "report" / "assets" / name
        text = fetched.read_text("utf-8") if fetched.is_file() else f"/* stands for {name} */"
        (source / "monai_ifim" / "report" / "assets" / name).write_text(text, "utf-8")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source]
    subprocess.run(command, check=True, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


class Installation:
    """An environment of its own, and an empty folder to work in."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "env", with_pip=True)
        self.folder, self.bin = folder / "work", folder / "env" / "bin"
        self.folder.mkdir()
        (self.folder / "tiny.py").write_text(NETWORK)
        shutil.copytree(ROOT / "bundles" / "ifim_signal_2d", self.folder / "bundle")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

    def __call__(self, *command: object) -> str:
        program = [self.bin / str(command[0]), *map(str, command[1:])]
        done = subprocess.run(program, cwd=self.folder, env=self.environment, capture_output=True,
                              text=True, check=False)  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def install(self, wheel: Path, *options: str) -> None:
        constraints = ["-c", ROOT / "constraints.txt"]
        self("python", "-m", "pip", "install", "-q", *constraints, *options, f"{wheel}[report]")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> dict[bool, Path]:
    return {a: build(tmp_path_factory.mktemp(f"wheel{a:d}"), a) for a in (False, True)}


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory) -> Installation:
    """With images, and results of a plain network and of a bundle."""
    installed = Installation(tmp_path_factory.mktemp("installed"))
    installed.install(wheels[False])
    installed("monai-ifim", "signal-images", "2d", "images", "--count", 4)
    code = "import torch, tiny; torch.save(tiny.network().state_dict(), 'W.pt')"
    installed("python", "-c", code)
    return installed


def test_what_is_in_the_wheels(wheels):
    plain, whole = (set(zipfile.ZipFile(wheels[a]).namelist()) for a in (False, True))
    assert whole - plain == {f"monai_ifim/report/assets/{name}" for name in ASSETS}
    assert {"monai_ifim/py.typed", "monai_ifim/configs/ifim_validate.yaml"} <= plain
    assert not [name for name in plain if name.startswith(("tests", "benchmarks", "bundles"))]


def test_it_is_the_installed_one(installed):
    where = installed("python", "-c", "import monai_ifim; print(monai_ifim.__file__)")
    assert Path(where.strip()).is_relative_to(installed.bin.parent)
    assert re.fullmatch(r"monai-ifim \d+\.\d+\.\d+\n", installed("monai-ifim", "--version"))
    assert "torch" in installed("monai-ifim", "doctor")
    assert "it fits" in installed("monai-ifim", "doctor", "--bundle", "bundle")
    assert Path(installed("monai-ifim", "config", "ifim_validate").strip()).is_file()


@pytest.mark.parametrize(
    "what", [["--network", "tiny:network", "--weights", "W.pt"], ["--bundle", "bundle"]]
)
def test_runs(installed, what):
    output = what[0].strip("-")
    told = installed("monai-ifim", "run", *what, "--input", "images", "--output", output)
    assert "4 images found, 4 done, 0 failed" in told
    assert len(list((installed.folder / output).glob("*_ifim_high.nii.gz"))) == 4


@pytest.mark.parametrize("assets", [False, True])
def test_report_and_view(installed, wheels, assets):
    if assets:
        installed.install(wheels[True], "--no-deps", "--force-reinstall")
    output = f"shown{assets:d}"
    installed("monai-ifim", "run", "--bundle", "bundle", "--input", "images", "--output", output)
    told = installed("monai-ifim", "report", output)
    assert ("without slices to scroll" in told) != assets
    report = installed.folder / output / "report"
    assert (report / "niivue.js").is_file() == assets
    command = [installed.bin / "monai-ifim", "view", output]
    with subprocess.Popen(command, cwd=installed.folder, env=installed.environment, text=True,
                          stdout=subprocess.PIPE) as server:  # fmt: skip
        try:
            address = server.stdout.readline().removeprefix("open ").strip()
            with urllib.request.urlopen(address, timeout=60) as page:
                assert b"Content-Security-Policy" in page.read()  # the report's own page
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(re.sub(r"(:\d+/).*", r"\1", address), timeout=60)
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(60) in (0, 130)
