"""A layer imports only layers below it, siblings never each other, and there is no import cycle."""

import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import monai_ifim
from _helpers.imports import imports

PACKAGE = Path(monai_ifim.__file__).parent
NAME = PACKAGE.name
LAYERS = [
    {"core", "distributed", "messages"},
    {"data", "outputs", "metrics", "inferers", "nuisances", "changes"},
    {"questions"},
    {"bundle", "handlers", "transforms"},
    {"experiments", "runs"},
    {"cluster"},
    {"report"},
    {"dicom"},
    {"label", "deploy"},
    {"cli"},
    {"__main__"},
]
# Inside a room whose parts have an order of their own.
INSIDE = {
    "experiments": [
        {"steps", "environment", "logits"},
        {"tasks", "statistics"},
        {"networks", "maps"},
        {"measures"},
        {"run"},
    ],
}
# The hosts that only one room may know.
HOSTS = {"monailabel": {"label"}, "monai.deploy": {"deploy"}, "holoscan": {"deploy"}}
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
MODULES = [path for path in FILES if path.parts != ("__init__.py",)]


def layer(room, layers):
    """Position of a room, None for a name that is none."""
    return next((i for i, rooms in enumerate(layers) if room in rooms), None)


def upward(source, module, place=NAME, layers=LAYERS):
    """Imports that go up, or to a sibling.

    Names that are no room (``from monai_ifim import eigenspace``) come through ``__init__``, which
    imports everything up to the transforms; only the rooms above that may use it.
    """
    mine = module.removeprefix(f"{place}.").split(".")[0]
    found = []
    for name in imports(source, module):
        if name != place and not name.startswith(f"{place}."):
            continue
        other = name.removeprefix(place).removeprefix(".").split(".")[0]
        if other == mine:
            continue
        above, own = layer(other, layers), layer(mine, layers)
        public = above is None and place == NAME and own > 4
        inner = place != NAME and (above is None or own is None)  # the room's own __init__
        if not (public or inner or (above is not None and above < own)):
            found.append(name)
    return found


def module_name(path):
    parts = [*path.with_suffix("").parts]
    return ".".join([NAME, *(parts[:-1] if parts[-1] == "__init__" else parts)])


def test_the_documentation_shows_these_layers():
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    lines = re.findall(r"^(\d+)  (.*?)(?:   +|$)", text, re.MULTILINE)
    shown = {int(number): set(rooms.split()) for number, rooms in lines}
    assert [shown[number] for number in sorted(shown)] == LAYERS


def test_every_room_has_a_layer():
    rooms = {path.parts[0].removesuffix(".py") for path in FILES} - {"__init__"}
    assert rooms == set.union(*LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_go_down(path):
    assert upward((PACKAGE / path).read_text(), module_name(path)) == []


@pytest.mark.parametrize("room", INSIDE)
def test_imports_go_down_inside_a_room(room):
    found = {}
    for path in MODULES:
        if path.parts[0] == room and len(path.parts) > 1 and path.name != "__init__.py":
            source, module = (PACKAGE / path).read_text(), module_name(path)
            found[str(path)] = upward(source, module, f"{NAME}.{room}", INSIDE[room])
    assert {path: names for path, names in found.items() if names} == {}


def test_no_import_cycle():
    graph = {}
    modules = {module_name(path) for path in MODULES}
    for path in MODULES:
        module = module_name(path)
        # A name of a module, or of something inside one; a package stands for its __init__.
        names = imports((PACKAGE / path).read_text(), module)
        targets = {n if n in modules else n.rpartition(".")[0] for n in names}
        graph[module] = {t for t in targets & modules if t != module}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


@pytest.mark.parametrize("path", [p for p in FILES if p.parts[0] == "core"], ids=str)
def test_core_needs_torch_alone(path):
    names = imports((PACKAGE / path).read_text(), module_name(path))
    tops = {name.split(".")[0] for name in names} - {NAME, "torch"}
    assert tops <= sys.stdlib_module_names


@pytest.mark.parametrize("path", FILES, ids=str)
def test_one_room_alone_knows_a_host(path):
    names = imports((PACKAGE / path).read_text(), module_name(path))
    for host, rooms in HOSTS.items():
        known = any(f"{name}.".startswith(f"{host}.") for name in names)
        assert not known or path.parts[0] in rooms


@pytest.mark.parametrize("folder", ["bundles", "configs"])
def test_configurations_use_public_names_alone(folder):
    """Of the package, and of the experiments, whose tasks our bundles train on."""
    import re

    import monai_ifim.experiments

    files = [p for p in (PACKAGE.parent / folder).rglob("*") if p.suffix in (".json", ".yaml")]
    assert files
    known = set(dir(monai_ifim.experiments))
    for file in files:
        for name in re.findall(r"\bmonai_ifim\.((?:experiments\.)?\w+)", file.read_text()):
            public = set(monai_ifim.__all__) | {f"experiments.{n}" for n in known}
            assert name in public, f"{file.name}: {name}"


def test_core_runs_without_monai():
    """Not only by its text: in a process where the hosts cannot be imported."""
    code = f"""
import sys
for host in ("monai", "ignite", "nibabel"):
    sys.modules[host] = None  # importing it raises ImportError
import torch
from {NAME} import eigenspace
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
print(eigenspace(network, torch.rand(1, 1, 4)).rank.item())
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "2"


def test_the_package_does_not_load_the_experiments():
    code = "import sys, monai_ifim; print([n for n in sys.modules if 'ifim.experiments' in n])"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("core.gradients.vjp", "from monai_ifim.core.checks import check_images", []),
        ("core.gradients.vjp", "from ..checks import check_images", []),
        ("core.gradients", "from monai_ifim.handlers import X", ["monai_ifim.handlers.X"]),
        ("core.gradients", "from ..handlers import X", ["monai_ifim.handlers.X"]),
        ("core.gradients", "import monai_ifim", ["monai_ifim"]),
        ("inferers", "from monai_ifim.core import eigenspace", []),
        ("inferers", "from monai_ifim import eigenspace", ["monai_ifim.eigenspace"]),
        ("inferers", "from monai_ifim import core", []),
        ("inferers", "def f():\n    from . import metrics", ["monai_ifim.metrics"]),
        ("inferers", "import monai_ifim.report.sheet as s", ["monai_ifim.report.sheet"]),
        ("handlers", "from monai_ifim.transforms import x", ["monai_ifim.transforms.x"]),
        ("experiments.tasks.x", "from monai_ifim.core.angles import x", []),
        ("experiments.tasks.x", "from monai_ifim.metrics import x", []),
        ("experiments.tasks.x", "from monai_ifim.report import x", ["monai_ifim.report.x"]),
        ("metrics", "from monai_ifim.experiments import x", ["monai_ifim.experiments.x"]),
        ("report.demo", "from monai_ifim.experiments import signal_task", []),
        ("report.demo", "from monai_ifim.__main__ import main", ["monai_ifim.__main__.main"]),
    ],
)
def test_the_walk_sees_an_import(module, source, found):
    assert upward(source, f"{NAME}.{module}") == found
