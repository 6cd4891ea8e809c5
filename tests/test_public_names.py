"""Public names are loaded on first use, and nothing that asks for them notices."""

import ast
import inspect
import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pydoc import locate

import pytest

import monai_ifim as mi

TREE = ast.parse(Path(mi.__file__).read_text())
# Module and name of what a type checker is told.
DECLARED = [
    (node.module, alias.name)
    for block in TREE.body
    if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
    for node in block.body
    for alias in node.names
]


def printed(code: str) -> str:
    """What a fresh process prints."""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize(("module", "name"), DECLARED)
def test_a_name_is_what_the_type_checker_is_told(module: str, name: str):
    assert getattr(mi, name) is getattr(import_module(module), name)


def test_the_lists_of_names_agree():
    assert sorted(name for _, name in DECLARED) == sorted(mi.__all__)
    assert {f"monai_ifim.{module}" for module in mi._MODULES} == {m for m, _ in DECLARED}


def test_the_package_loads_nothing_before_a_name_is_used():
    heavy = "('torch', 'monai', 'numpy', 'nibabel', 'ignite')"
    code = f"import sys, monai_ifim; print([n for n in {heavy} if n in sys.modules])"
    assert printed(code) == "[]"


def test_the_mathematics_loads_torch_alone():
    code = "import sys, monai_ifim as mi; mi.eigenspace; print('torch' in sys.modules, end=' ')"
    code += "; print('monai' in sys.modules)"
    assert printed(code) == "True False"


def test_every_kind_of_import_in_a_fresh_process():
    code = """
from monai_ifim import *
import monai_ifim as mi
from monai_ifim import IFIMHandler as handler
assert mi.IFIMHandler is handler is IFIMHandler
assert set(mi.__all__) <= set(dir(mi)) and set(mi.__all__) <= set(globals())
assert mi.core.eigenspace is mi.eigenspace is eigenspace
assert mi.handlers.IFIMHandler is handler
print("good")
"""
    assert printed(code) == "good"


def test_a_module_of_the_package_is_there_without_its_import():
    assert printed("import monai_ifim as mi; print(mi.metrics.__name__)").endswith(".metrics")


@pytest.mark.parametrize("name", ["eigenspaces", "__wrapped__", "_Private", "no_module"])
def test_an_unknown_name(name: str):
    with pytest.raises(AttributeError, match=f"'monai_ifim' has no attribute '{name}'"):
        getattr(mi, name)
    with pytest.raises(ImportError, match=name):
        exec(f"from monai_ifim import {name}")


def test_pickles_and_look_ups_by_name():
    assert pickle.loads(pickle.dumps(mi.Bernoulli)) is mi.Bernoulli
    assert pickle.loads(pickle.dumps(mi.Krylov(rank=2))) == mi.Krylov(rank=2)
    assert locate("monai_ifim.IFIMHandler") is mi.IFIMHandler
    assert dict(inspect.getmembers(mi))["eigenspace"] is mi.eigenspace


def test_configurations_find_the_names():
    """In full, in an expression, and by bare name, which MONAI seeks in loaded modules."""
    code = """
import warnings
warnings.simplefilter("ignore")
from monai.bundle import ConfigParser
parser = ConfigParser({
    "imports": ["$import monai_ifim"],
    "full": {"_target_": "monai_ifim.SqueezeSingleSliced", "keys": "image"},
    "bare": {"_target_": "SqueezeSingleSliced", "keys": "image", "_requires_": "@imports"},
    "called": "$monai_ifim.find_images.__name__",
})
names = ("full", "bare", "called")
full, bare, called = (parser.get_parsed_content(name) for name in names)
print(type(full) is type(bare), called)
"""
    assert printed(code) == "True find_images"
