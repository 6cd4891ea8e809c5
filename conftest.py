"""Modules whose doctests need a host that only some environments have."""

from importlib.util import find_spec

collect_ignore_glob = []
# `make label-test` runs them in an environment with MONAI Label.
if find_spec("monailabel") is None:
    collect_ignore_glob.append("monai_ifim/label/*")
# `make deploy-test` in one with the MONAI Deploy App SDK.
if find_spec("holoscan") is None:
    collect_ignore_glob.append("monai_ifim/deploy/*")
