"""docs/experiments.md names what there is, and its Python block runs."""

import importlib
import re
import subprocess
import sys

import pytest

from _helpers.pages import DOCS, blocks
from monai_ifim.experiments.tasks.catalogue import TASKS
from monai_ifim.experiments.tasks.clinical import CLINICAL

PAGE = (DOCS / "experiments.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("index", "shown"), [(0, "random_in_complement"), (1, "(4, 1, 8, 8)")])
def test_python_block(index, shown):
    block = list(blocks("experiments.md", "python"))[index]
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


def test_no_python_block_is_left_out():
    assert len(list(blocks("experiments.md", "python"))) == 2


def test_every_experiment_has_its_data_described():
    table = PAGE[PAGE.index("| experiment |") :].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= set(TASKS)


def test_the_way_to_get_the_data_is_that_of_the_messages():
    for name, source in CLINICAL.items():
        for command in source.fetch.split(" and "):
            assert f"`{command}`" in PAGE, name


def test_functions_exist():
    table = PAGE[PAGE.index("| in `monai_ifim.experiments`") :].split("\n\n")[0]
    names = [name for row in table.splitlines()[2:] for name in re.findall(r"`([\w.]+)`", row)]
    assert len(names) > 15
    for name in names:
        module, _, function = name.rpartition(".")
        place = importlib.import_module(f"monai_ifim.experiments.{module}".rstrip("."))
        assert callable(getattr(place, function)), name
