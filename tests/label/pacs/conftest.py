"""One Orthanc for the tests of the datastore, and its own and pydicom's series in it."""

import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

from _helpers import orthanc as helper
from _helpers.dicom import OBLIQUE, SHIPPED


@pytest.fixture(scope="session")
def new_pacs(tmp_path_factory):
    """Starts an empty Orthanc."""
    reason = helper.missing()
    if reason:
        pytest.skip(reason)
    started = []

    def start():
        started.append(helper.Orthanc(tmp_path_factory.mktemp("orthanc")).start())
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture(scope="session")
def series(tmp_path_factory):
    """Folders of made series with their UIDs and values, by name."""
    top = tmp_path_factory.mktemp("series")
    made = {
        "axial": {"shape": (32, 32, 32)},
        "slanted": {"shape": (32, 32, 32), "orientation": OBLIQUE, "modality": "MR"},
        "oblique": {"shape": (20, 18, 14), "orientation": OBLIQUE, "modality": "MR"},
        "gap": {"shape": (10, 12, 9), "skip": (4, 5)},
        "plane": {"shape": (64, 64, 1), "modality": "MR"},
    }
    return {n: (top / n, *helper.write_scan(top / n, **options)) for n, options in made.items()}


@pytest.fixture(scope="session")
def pacs(new_pacs, series):
    """With the made series, and those of pydicom's files that are CT, MR, SEG, SR and others."""
    pacs = new_pacs()
    for folder, _, _ in series.values():
        pacs.send_folder(folder)
    for name in ("CT_small.dcm", "MR_small.dcm", "liver_1frame.dcm", "reportsi.dcm", "rtplan.dcm"):
        pacs.send((SHIPPED / name).read_bytes())
    return pacs


@pytest.fixture(scope="session")
def app(tmp_path_factory):
    """An app folder with a bundle for volumes and one for pictures."""
    from _helpers.servers import BUNDLES
    from monai_ifim.label.app_folder import write_app

    bundles = [BUNDLES / "ifim_signal_2d", BUNDLES / "ifim_signal_3d"]
    return write_app(tmp_path_factory.mktemp("app") / "app", bundles)


@pytest.fixture(scope="session")
def new_server(app, tmp_path_factory):
    """Starts a server on a PACS; its cache and its temporary files are in its folder."""
    from _helpers.servers import start, stop

    started = []

    def begin(pacs, *conf, **environment):
        folder = tmp_path_factory.mktemp("server")
        command = ["monai_ifim", "label-server", str(app), pacs.url]
        for each in ("pacs_listing_seconds=1", "pacs_seconds=5", "pacs_cache=cache", *conf):
            command += ["--conf", each]
        started.append(start(folder, command, **environment))
        return started[-1]

    yield begin
    for each in started:
        stop(each)
