"""Options of the overlays on a real command line: the misspelt ones are refused with a sentence."""

from pathlib import Path

import pytest

from _helpers.foreign_bundles import install, run_bundle, scans
from monai_ifim import check_arguments

ROOT = Path(__file__).parents[2]
FILES = f"['{ROOT}/bundles/ifim_signal_2d/configs/inference.json','{ROOT}/configs/ifim.yaml']"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return install("oblique_3d", tmp_path_factory.mktemp("arguments"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arguments") / "images"
    folder.mkdir()
    scans(folder)
    return folder


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (["--ifim_rnk", "3"], "got --ifim_rnk; did you mean --ifim_rank?"),
        (["--ifim_volumes", "low"], "expected volumes from ('high', 'orth', 'sensitivity'), got"),
    ],
)
def test_the_run_ends_before_it_begins(bundle, images, overlay, tmp_path, option, sentence):
    done = run_bundle(bundle, images, tmp_path / "out", *option, overlay=overlay)
    assert done.returncode != 0
    assert sentence in done.stdout
    assert "['l', 'o', 'w']" not in done.stdout
    assert not (tmp_path / "out").exists()


def test_every_spelling_of_a_known_option_passes():
    files = ["--config_file", FILES]
    for options in (
        ["--ifim_rank", "3", "--ifim_energy=0.9", "--ifim-volumes", "['high']"],
        ["--ifim_handler::fail_at_end", "False", "--ifim_handler#rank", "2"],
        ["--output_dir", "out", "--dataset_dir", "ifim_rnk", "--new_id", "-3"],
        [],
    ):
        check_arguments([*options, *files])
        check_arguments([*files, *options])


@pytest.mark.parametrize("option", ["--ifim_rnk", "--ifim-rnk=3", "-ifim_rnk", "--ifim_rnk::x"])
@pytest.mark.parametrize("form", [FILES, FILES.strip("[]").replace("'", ""), f"={FILES}"])
def test_every_spelling_of_an_unknown_option_is_refused(option, form):
    files = ["--config_file" + form] if form.startswith("=") else ["--config_file", form]
    with pytest.raises(ValueError, match=r"got --ifim_rnk; did you mean --ifim_rank\?") as raised:
        check_arguments(["run", *files, option, "3"])
    for name in ("rank", "volumes", "output_dir", "data_root_dir", "likelihood"):
        assert f"--ifim_{name}" in str(raised.value)


def test_what_resembles_nothing_gets_the_list_alone():
    with pytest.raises(ValueError, match=r"got --ifim_xyz; there are --ifim_"):
        check_arguments(["--config_file", FILES, "--ifim_xyz", "3"])


def test_without_a_command_line_there_is_nothing_to_check():
    check_arguments([])
    check_arguments(["--ifim_rnk", "3"])
