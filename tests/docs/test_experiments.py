"""docs/experiments.md names what there is, and its Python block runs."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

from monai_ifim.experiments.tasks.catalogue import TASKS
from monai_ifim.experiments.tasks.clinical import CLINICAL

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "experiments.md").read_text()


def test_python_block():
    (block,) = re.findall(r"^```python\n(.*?)^```", DOCS, flags=re.MULTILINE | re.DOTALL)
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "random_in_complement" in done.stdout


def test_every_experiment_has_its_data_described():
    table = DOCS[DOCS.index("| experiment |") :].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= set(TASKS)


def test_the_way_to_get_the_data_is_that_of_the_messages():
    for name, source in CLINICAL.items():
        for command in source.fetch.split(" and "):
            assert f"`{command}`" in DOCS, name


def test_functions_exist():
    table = DOCS[DOCS.index("| in `monai_ifim.experiments`") :].split("\n\n")[0]
    names = [name for row in table.splitlines()[2:] for name in re.findall(r"`([\w.]+)`", row)]
    assert len(names) > 15
    for name in names:
        module, _, function = name.rpartition(".")
        place = importlib.import_module(f"monai_ifim.experiments.{module}".rstrip("."))
        assert callable(getattr(place, function)), name


def test_links_exist():
    targets = re.findall(r"\]\(([^)#]+)\)", DOCS)
    assert targets
    assert not [target for target in targets if not (ROOT / "docs" / target).exists()]
