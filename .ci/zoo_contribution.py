"""What a pull request to MONAI's model zoo adds for one of the bundles, in ``build/zoo``.

    python .ci/zoo_contribution.py ifim_signal_2d --wheel https://…/monai_ifim-0.1.0-py3-none-any.whl

The zoo's CI installs ``required_packages_version`` from PyPI, where this package is not. So the
metadata no longer name it, and a script of the zoo's ``install_dependency_dict`` installs a wheel.
"""

import argparse
import json
import shlex
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "monai-ifim"
INSTALL = "python -m pip install --no-cache-dir --disable-pip-version-check {wheel}\n"
NOTES = """\
# Adding {name} to the model zoo

Copy `models` and `ci` over a checkout of the zoo, and add to `ci/bundle_custom_data.py`

```python
install_dependency_dict["{name}"] = "{script}"
```

`inference_trt.json`: not supported, because the components need the gradients of the network's
outputs with respect to the image, and a TensorRT engine computes none. So the bundle is in none of
the zoo's lists for TensorRT.
"""


def contribution(name: str, wheel: str, output: Path) -> Path:
    """Write the folder.

    Args:
        name: of a bundle in ``bundles/``.
        wheel: address of the wheel that the zoo's CI can install, or its path in the zoo.
        output: folder; what it held is removed.

    Returns:
        The bundle in it.

    Raises:
        ValueError: no such bundle.
    """
    source = ROOT / "bundles" / name
    if not (source / "configs" / "metadata.json").is_file():
        known = sorted(p.parents[1].name for p in source.parent.glob("*/configs/metadata.json"))
        raise ValueError(f"expected one of {', '.join(known)}, got {name!r}; name one of these")
    shutil.rmtree(output, ignore_errors=True)
    bundle = output / "models" / name
    hidden = shutil.ignore_patterns(".*", "__pycache__", "eval")
    shutil.copytree(source, bundle, ignore=hidden)
    file = bundle / "configs" / "metadata.json"
    metadata = json.loads(file.read_text(encoding="utf-8"))
    metadata["required_packages_version"].pop(PACKAGE)
    file.write_text(json.dumps(metadata, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
    script = f"ci/install_scripts/install_{name}_dependency.sh"
    (output / script).parent.mkdir(parents=True)
    (output / script).write_text(INSTALL.format(wheel=shlex.quote(wheel)), encoding="utf-8")
    (output / "CONTRIBUTION.md").write_text(NOTES.format(name=name, script=script), "utf-8")
    return bundle


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a contribution to MONAI's model zoo.")
    parser.add_argument("bundle", help="name of a bundle in bundles/")
    parser.add_argument("--wheel", required=True, help="address of the wheel of this package")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "zoo", help="(%(default)s)")
    options = parser.parse_args()
    print(contribution(options.bundle, options.wheel, options.output))
