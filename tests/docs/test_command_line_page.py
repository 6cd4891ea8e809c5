"""docs/command_line.md: its commands run, one after another, and its table has all of them."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from monai.networks.nets import DenseNet121

import monai_ifim as mi
from _helpers.pages import DOCS, ROOT, blocks
from monai_ifim.cli import main
from monai_ifim.cli.program import COMMANDS

PAGE = (DOCS / "command_line.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "bundles").symlink_to(ROOT / "bundles")
    torch.manual_seed(0)
    network = DenseNet121(spatial_dims=2, in_channels=1, out_channels=3)
    torch.save({"model": network.state_dict()}, folder / "weights.pt")
    return folder


def test_commands_and_python(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    lines = [line for block in blocks("command_line.md", "bash") for line in block.splitlines()]
    assert len(lines) >= 4
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "monai-ifim"
        assert main(arguments) == 0, line
    for name in ("results", "one", "plain"):
        assert len((folder / name / "ifim.csv").read_text().splitlines()) == 5
    network = DenseNet121(spatial_dims=2, in_channels=1, out_channels=3)
    (python,) = blocks("command_line.md", "python")
    exec(python, {"mi": mi, "network": network})
    assert (folder / "python" / "ifim.csv").is_file()


def test_every_command_is_in_the_table():
    table = re.search(r"^\| command \|.*?\n\n", PAGE, flags=re.MULTILINE | re.DOTALL).group()
    named = {n for row in table.splitlines()[2:] for n in re.findall(r"`([\w-]+)`", row[:60])}
    known = {name for command in COMMANDS for name in (command.name, command.alias)}
    assert named <= known
    assert {c.name for c in COMMANDS if not {c.name, c.alias} & named} == set()
