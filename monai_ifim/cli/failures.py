"""An error as one line that says how to fix it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

# Distributions whose modules have another name.
_DISTRIBUTIONS = {
    "ignite": "pytorch-ignite",
    "itk": "itk-io",
    "jwt": "pyjwt",
    "nrrd": "pynrrd",
    "PIL": "pillow",
    "pydantic_core": "pydantic",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
# Installed without its requirements, which no extra can say.
_BY_HAND = {"monailabel": "docs/monai_label.md tells how to install MONAI Label"}
_TRACEBACK = "run it again with --debug for the traceback"


def described(error: Exception, extra: str = "") -> tuple[int, str]:
    """What a user is told about an error.

    Args:
        error: what a command raised.
        extra: the extra that this command needs, empty for none.

    Returns:
        Exit status and one line: 2 for what the user can put right, 1 for what was not foreseen.
    """
    text = " ".join(filter(None, (line.strip() for line in str(error).splitlines())))
    if isinstance(error, ModuleNotFoundError) and not text.startswith("expected"):
        return 2, _missing(error.name or text, extra)
    if isinstance(error, OSError) and error.errno is not None:
        return 2, f"{text}; check the path, or {_TRACEBACK}"
    if isinstance(error, (ValueError, OSError, ModuleNotFoundError)) or _is_damaged_image(error):
        return 2, text
    return 1, f"unforeseen {type(error).__name__}: {text}; {_TRACEBACK}"


def install_command(module: str, requirements: Iterable[str], extra: str = "") -> str:
    """How to install what a module belongs to.

    Args:
        module: dotted name of the module that is missing.
        requirements: of this package, as ``importlib.metadata.requires`` gives them.
        extra: the one to name when several extras bring it.

    Returns:
        A command for the shell.

    >>> install_command("PIL.Image", ["pillow>=10; extra == 'images'"])
    "pip install 'monai_ifim[images]'"
    >>> install_command("nibabel.nifti1", ["nibabel>=5"])
    'pip install monai_ifim'
    """
    top = module.split(".")[0]
    distribution = _DISTRIBUTIONS.get(top, top)
    extras = []
    for requirement in requirements:
        name, marker = re.match(r"([\w.-]+)(.*)", requirement).groups()  # type: ignore[union-attr]
        if _normal(name) != _normal(distribution):
            continue
        found = re.search(r"extra\s*==\s*['\"]([\w.-]+)['\"]", marker)
        if found is None:
            return "pip install monai_ifim"
        extras.append(found[1])
    if not extras:
        return f"pip install {distribution}"
    return f"pip install 'monai_ifim[{extra if extra in extras else extras[0]}]'"


def _missing(module: str, extra: str) -> str:
    from importlib.metadata import PackageNotFoundError, requires

    top = module.split(".")[0]
    try:
        requirements = requires("monai-ifim") or []
    except PackageNotFoundError:  # a checkout on the path, not installed
        requirements = []
    fix = _BY_HAND.get(top) or install_command(module, requirements, extra)
    return f"expected the package {top}, got none; {fix}"


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _is_damaged_image(error: Exception) -> bool:
    # Only with nibabel loaded can the error be one of its own.
    module = sys.modules.get("nibabel.filebasedimages")
    return module is not None and isinstance(error, module.ImageFileError)
