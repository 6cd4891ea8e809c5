"""What pyproject.toml says about the package is true."""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from _helpers.imports import imports
from monai_ifim.cli.failures import install_command

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
INSTALLED = PROJECT["tool"]["setuptools"]


def test_every_folder_of_the_package_is_installed():
    folders = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for file in (ROOT / "monai_ifim").rglob("__init__.py")
    }
    folders |= {
        ".".join(["monai_ifim", *file.parent.relative_to(ROOT).parts])
        for file in (ROOT / "configs").rglob("*.yaml")
    }
    assert sorted(folders) == INSTALLED["packages"]


def test_every_file_that_is_no_python_is_installed():
    patterns = INSTALLED["package-data"]
    for package in INSTALLED["packages"]:
        place = INSTALLED["package-dir"].get(package, package.replace(".", "/"))
        covered = {f for p in patterns.get(package, []) for f in (ROOT / place).glob(p)}
        data = {
            f for f in (ROOT / place).iterdir() if f.is_file() and f.suffix not in (".py", ".pyc")
        }
        assert data == covered, package


@pytest.mark.parametrize("script", PROJECT["project"]["scripts"])
def test_a_console_script_has_its_function(script: str):
    module, _, function = PROJECT["project"]["scripts"][script].partition(":")
    assert callable(getattr(import_module(module), function))


def test_hashed_archives_are_those_of_the_pins():
    """``make HASHED=yes``, for Python 3.11."""
    text = (ROOT / ".ci" / "requirements-hashed.txt").read_text()
    hashed = dict(re.findall(r"^([\w.-]+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", text, re.M))
    assert len(hashed) == text.count("==")
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split(";")[0].strip() for line in lines if not re.search(r"< ?\"3.1", line)]
    pins = dict(pin.split("==") for pin in pins if "==" in pin)
    same = {n.lower().replace("_", "-"): v.split("+")[0] for n, v in hashed.items()}
    wrong = {
        name: (version, same[key])
        for name, version in pins.items()
        if (key := name.lower().replace("_", "-")) in same and same[key] != version
    }
    assert not wrong, "run .ci/lock.py"
    assert {"torch", "monai", "numpy", "nibabel"} <= same.keys()


def test_every_requirement_that_we_develop_with_is_pinned():
    """Of the extra dev; MONAI Label and the benchmarks' peers have environments of their own."""
    extras = PROJECT["project"]["optional-dependencies"]
    pins = {
        re.split(r"[=<>~]", line)[0].lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    wanted = [*PROJECT["project"]["dependencies"], *extras["dev"], *extras["test"]]
    wanted += [*extras["experiments"], *extras["report"], *extras["images"], *extras["parquet"]]
    wanted += extras["docs"]
    names = {re.match(r"[\w.-]+", line)[0].lower() for line in wanted}
    assert names - pins - {"monai_ifim", "types-pyyaml"} == set()


def test_what_the_code_imports_is_a_requirement():
    """And the message about a package that is missing names the extra that brings it."""
    extras = PROJECT["project"]["optional-dependencies"]
    requirements = PROJECT["project"]["dependencies"] + [
        f"{line}; extra == '{extra}'" for extra, lines in extras.items() for line in lines
    ]
    sources = [file.read_text() for file in (ROOT / "monai_ifim").rglob("*.py")]
    theirs = {name.split(".")[0] for source in sources for name in imports(source, "monai_ifim")}
    theirs -= {*sys.stdlib_module_names, "monai_ifim"}
    assert {"torch", "monai", "captum", "scipy", "matplotlib", "fastapi"} <= theirs
    for package in sorted(theirs - {"monailabel"}):  # installed by hand: docs/monai_label.md
        command = install_command(package, requirements)
        assert re.fullmatch(r"pip install '?monai_ifim(\[\w+\]')?", command), (package, command)


@pytest.mark.parametrize(
    ("module", "extra", "command"),
    [
        ("captum.attr", "", "pip install 'monai_ifim[experiments]'"),
        ("scipy.stats", "", "pip install 'monai_ifim[experiments]'"),
        ("matplotlib", "", "pip install 'monai_ifim[report]'"),
        ("matplotlib", "experiments", "pip install 'monai_ifim[report]'"),
        ("PIL", "", "pip install 'monai_ifim[images]'"),
        ("PIL", "label", "pip install 'monai_ifim[label]'"),
        ("fastapi", "", "pip install 'monai_ifim[label]'"),
        ("expiring-dict", "", "pip install 'monai_ifim[label]'"),
        ("nibabel", "", "pip install monai_ifim"),
        ("unheard_of", "", "pip install unheard_of"),
    ],
)
def test_the_command_that_installs_a_package(module: str, extra: str, command: str):
    extras = PROJECT["project"]["optional-dependencies"]
    requirements = PROJECT["project"]["dependencies"] + [
        f'{line}; extra == "{extra}"' for extra, lines in extras.items() for line in lines
    ]
    assert install_command(module, requirements, extra) == command


def test_the_hooks_have_the_versions_of_the_environment():
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line.count("==") == 1 and not line.startswith("#")
    )
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    versions = {Path(repo["repo"]).name: repo.get("rev") for repo in hooks}
    assert versions == {
        "ruff-pre-commit": f"v{pins['ruff']}",
        "codespell": f"v{pins['codespell']}",
        "local": None,
    }


def test_the_workflow_runs_on_the_ends_of_what_is_promised():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    matrix = yaml.safe_load(text)["jobs"]["run"]["strategy"]["matrix"]
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    (torch,) = (name for name in PROJECT["project"]["dependencies"] if name.startswith("torch"))
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13"]
    assert matrix["python"][0] == oldest
    assert [entry["torch"] for entry in matrix["include"]] == [
        f"{torch.removeprefix('torch>=')}.0",
        "newest",
    ]
