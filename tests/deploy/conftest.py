"""The application, run on a series."""

import pytest

from _helpers.deploy import BUNDLE, run_application, write_study


@pytest.fixture(scope="session")
def application(tmp_path_factory):
    """Folder of the series, values by InstanceNumber, folder of the results."""
    folder = tmp_path_factory.mktemp("deploy")
    values = write_study(folder / "series")
    done = run_application("-i", folder / "series", "-o", folder / "out", "-m", BUNDLE)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "series", values, folder / "out"
