"""A floor imports only floors below it, and the rooms of one floor never each other."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import monai_ifim

PACKAGE = Path(monai_ifim.__file__).parent
NAME = PACKAGE.name
# Every other room is on floor 1. Ranks and tables need nothing of ours. A bundle's reader stands on
# all of them, and the experiments on that.
FLOORS = {
    "core": 0,
    "ranks": 0,
    "tables": 0,
    "classification_bundle": 2,
    "experiments": 3,
    "report": 4,
    "label": 4,
    "__main__": 5,
}
# What each room may use of the world; the hosts are what a room is there for.
FORBIDDEN = {"monailabel": {"label"}}
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room(parts):
    """Room of a module inside the package, or None for the package itself."""
    return parts[0] if parts else None


def imports(source, module):
    """Dotted names that a source imports anywhere, relative ones resolved against its module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *filter(None, [base])])
            # "from package import room" names a module as well as "from package.room import x".
            yield from (f"{base}.{alias.name}" for alias in node.names)


def arrows_up(source, module):
    """Imports of the package that go up, or to another room of the same floor."""
    mine = module.split(".")[1]
    floor = FLOORS.get(mine, 1)
    found = []
    for name in imports(source, module):
        top, *rest = name.split(".")
        if top != NAME:
            continue
        other = room(rest)
        if other == mine:
            continue
        # Names that are no room (from monai_ifim import eigenspace) come through __init__, which
        # imports everything; only the top floor stands above that.
        rooms = {path.parts[0].removesuffix(".py") for path in FILES}
        below = floor > 3 if other not in rooms else FLOORS.get(other, 1) < floor
        if not below:
            found.append(name)
    return found


def module_name(path):
    return ".".join([NAME, *path.with_suffix("").parts])


@pytest.mark.parametrize("path", [p for p in FILES if p.parts != ("__init__.py",)], ids=str)
def test_arrows_go_down(path):
    assert arrows_up((PACKAGE / path).read_text(), module_name(path)) == []


@pytest.mark.parametrize("path", [p for p in FILES if p.parts[0] == "core"], ids=str)
def test_core_needs_torch_alone(path):
    names = imports((PACKAGE / path).read_text(), module_name(path))
    tops = {name.split(".")[0] for name in names} - {NAME, "torch"}
    assert tops <= sys.stdlib_module_names


@pytest.mark.parametrize("path", FILES, ids=str)
def test_one_room_alone_knows_monai_label(path):
    names = imports((PACKAGE / path).read_text(), module_name(path))
    tops = {name.split(".")[0] for name in names}
    for host, rooms in FORBIDDEN.items():
        assert host not in tops or path.parts[0] in rooms


def test_core_runs_without_monai():
    """Not only by its text: in a process where the hosts cannot be imported."""
    code = f"""
import sys, types
for host in ("monai", "ignite", "nibabel"):
    sys.modules[host] = None  # importing it raises ImportError
package = types.ModuleType({NAME!r})
package.__path__ = [{str(PACKAGE)!r}]
sys.modules[{NAME!r}] = package
import torch
from {NAME}.core import eigenspace
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
print(eigenspace(network, torch.rand(1, 1, 4)).rank.item())
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "2"


@pytest.mark.parametrize(
    ("module", "source", "arrows"),
    [
        ("core.gradients", "from monai_ifim.core.checks import check_images", []),
        ("core.gradients", "from .checks import check_images", []),
        ("core.gradients", "from monai_ifim.handlers import X", ["monai_ifim.handlers.X"]),
        ("core.gradients", "from ..handlers import X", ["monai_ifim.handlers.X"]),
        ("core.gradients", "import monai_ifim", ["monai_ifim"]),
        ("inferers", "from monai_ifim.core import eigenspace", []),
        ("inferers", "from monai_ifim import eigenspace", ["monai_ifim.eigenspace"]),
        ("inferers", "from monai_ifim import core", []),
        ("inferers", "def f():\n    from . import writers", ["monai_ifim.writers"]),
        ("inferers", "import monai_ifim.report.sheet as s", ["monai_ifim.report.sheet"]),
        ("experiments.signal", "from monai_ifim.experiments.angles import x", []),
        ("experiments.signal", "from monai_ifim.metrics import x", []),
        ("experiments.signal", "from monai_ifim.report import x", ["monai_ifim.report.x"]),
        ("metrics", "from monai_ifim.experiments import x", ["monai_ifim.experiments.x"]),
        ("label.app", "from monai_ifim.report import x", ["monai_ifim.report.x"]),
        ("report.demo", "from monai_ifim.experiments import signal_task", []),
        ("report.demo", "from monai_ifim.__main__ import main", ["monai_ifim.__main__.main"]),
    ],
)
def test_the_walk_sees_an_arrow(module, source, arrows):
    assert arrows_up(source, f"{NAME}.{module}") == arrows
