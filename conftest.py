"""Modules whose doctests need a host that only some environments have."""

from importlib.util import find_spec

# `make label-test` runs them in an environment with MONAI Label.
if find_spec("monailabel") is None:
    collect_ignore_glob = ["monai_ifim/label/*"]
