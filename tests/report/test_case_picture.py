"""The picture of a case: turned by the affine, one channel, true sizes, what is said in words."""

import nibabel as nib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.engines import SupervisedEvaluator

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.run_folders import OBLIQUE, components, write_run
from _helpers.scans import dataset, write_scans
from monai_ifim.messages import RESEARCH_ONLY
from monai_ifim.report.cases import Case, Numbers, Style, case_figure
from monai_ifim.report.cases.choice import chosen_channel, chosen_slices, weights
from monai_ifim.report.cases.folder import RunFolder, read_labels
from monai_ifim.report.cases.planes import Turned
from monai_ifim.report.sheet import write_sheet

SHAPE = (5, 7, 9)
# Head to right, front, head: where the corners of a plane are, as a radiologist hangs it.
LEFT_TOP = {"axial": (1, 1, None), "coronal": (1, None, 1), "sagittal": (None, 1, 1)}


def a_case(shape=(2, 10, 12, 8), peak=(1, 3, 9, 5), **changes) -> Case:
    parts = components(shape, peak)
    given = {"name": "a", "affine": np.diag([1.0, 1, 2, 1]), "numbers": Numbers("x", 0.9)} | changes
    return Case(**parts | given)


def texts(figure: Figure) -> str:
    found = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return "\n".join(artist.get_text() for artist in found)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SRP", "AIL", "PSR"])
@pytest.mark.parametrize("plane", LEFT_TOP)
def test_the_same_place_in_the_patient_is_at_the_same_place_of_the_picture(codes, plane):
    ornt = nib.orientations.axcodes2ornt(codes)
    affine = nib.orientations.inv_ornt_aff(ornt, SHAPE)
    volume = np.zeros((1, *SHAPE))
    # The voxel that is farthest to the patient's right, front and head (or in the middle).
    world = np.array([[0, n - 1] for n in SHAPE])
    corners = np.array(np.meshgrid(*world, indexing="ij")).reshape(3, -1)
    places = affine[:3, :3] @ corners + affine[:3, 3:]
    voxel = corners[:, places.sum(axis=0).argmax()]
    volume[(0, *voxel)] = 1
    turn = Turned(affine, SHAPE)
    (found,) = (each for each in turn.planes if each.name == plane)
    turned = turn(volume)
    index = int(turned[0].max(axis=tuple(a for a in range(3) if a != found.normal)).argmax())
    assert index == found.slices - 1
    assert found.cut(turned, index)[0, 0, 0] == 1  # right or front at the left, top up
    assert (
        found.letters
        == {
            "axial": ("R", "L", "A", "P"),
            "coronal": ("R", "L", "S", "I"),
            "sagittal": ("A", "P", "S", "I"),
        }[plane]
    )


def test_a_picture_stands_as_it_was_stored_without_letters():
    stored = np.arange(12.0).reshape(1, 4, 3, 1)  # columns first, as MONAI reads pictures
    turn = Turned(np.eye(4), (4, 3, 1), picture=True)
    (plane,) = turn.planes
    assert np.array_equal(plane.cut(turn(stored), 0)[0], stored[0, :, :, 0].T)
    assert plane.letters == ("", "", "", "")


def test_sizes_are_those_of_the_scanner_and_oblique_edges_name_several_sides():
    turn = Turned(OBLIQUE, (40, 48, 16))
    assert {plane.name: tuple(np.round(plane.size)) for plane in turn.planes} == {
        "axial": (60, 48),
        "coronal": (60, 88),
        "sagittal": (48, 88),
    }
    assert {plane.name: plane.letters[2] for plane in turn.planes}["axial"] == "ASL"


@pytest.mark.parametrize("normal", range(3))
def test_a_single_slice_has_its_own_plane_alone(normal):
    shape = tuple(1 if axis == normal else 6 for axis in range(3))
    assert [plane.normal for plane in Turned(np.eye(4), shape).planes] == [normal]


@pytest.mark.parametrize("affine", [None, np.zeros((4, 4)), np.full((4, 4), np.nan)])
def test_without_an_affine_that_means_something_no_side_of_a_patient_is_named(affine):
    turned = Turned(affine, SHAPE)
    assert [plane.size for plane in turned.planes] == [(5, 7), (5, 9), (7, 9)]
    assert [plane.name for plane in turned.planes] == [
        "across axis 3",
        "across axis 2",
        "across axis 1",
    ]
    said = texts(case_figure(a_case(affine=affine))).splitlines()
    assert not {*"RLAPSI"} & {*said}
    assert not [text for text in said if "mm" in text or "axial" in text]
    assert "2 px" in said


@pytest.mark.parametrize("shape", [(1, 16, 12, 1), (1, 8, 9, 7)])
def test_nothing_is_cut_off_by_the_edge(shape):
    """Of a picture as ``savefig`` writes it, without a tight box: its edge is white."""
    peak = (0, 3, 4, 0)
    numbers = Numbers("x", 0.9, trace=1.23e-105, eigenvalues=(1e-105,), trace_share=0.8)
    for case in (
        a_case(shape, peak, numbers=numbers),
        a_case(shape, peak, sensitivity=None, affine=None),
    ):
        canvas = FigureCanvasAgg(case_figure(case))
        canvas.draw()
        drawn = np.asarray(canvas.buffer_rgba())
        for edge in (drawn[:2], drawn[-2:], drawn[:, :2], drawn[:, -2:]):
            assert (edge == 255).all()


def test_slices_and_channel_follow_the_sensitivity():
    case = a_case()
    assert chosen_channel(case) == 1
    assert chosen_slices(weights(case)[1], "sensitivity") == (3, 9, 5)
    assert chosen_slices(weights(case)[1] * 1e-300, "sensitivity") == (3, 9, 5)
    assert chosen_slices(weights(case)[1], "middle") == (5, 6, 4)
    assert chosen_slices(np.zeros((4, 4, 4)), "sensitivity") == (2, 2, 2)
    without = a_case(sensitivity=None)
    assert chosen_channel(without) == 1
    assert chosen_channel(case, 0) == 0
    with pytest.raises(ValueError, match="expected a channel from 0 to 1, got 2"):
        case_figure(case, Style(channel=2))
    with pytest.raises(ValueError, match="'sensitivity' or 'middle'"):
        case_figure(case, Style(slices="last"))  # type: ignore[arg-type]


def test_every_panel_shows_the_same_channel():
    case = a_case(sensitivity=None)
    case.orth[0] += 1000  # the strongest channel of one volume is not that of the other
    figure = case_figure(case, Style(slices="middle"))
    pictures = [image.get_array() for image in figure.findobj(lambda a: hasattr(a, "get_extent"))
                if getattr(image, "get_array", None) is not None]  # fmt: skip
    assert len(pictures) == 12  # four panels of three planes
    assert max(np.abs(picture).max() for picture in pictures) < 500
    assert "channel 2 of 2" in texts(figure)
    named = a_case(channel_names=("T1", "FLAIR"))
    assert "FLAIR (channel 2 of 2)" in texts(case_figure(named))


def test_words_of_the_picture():
    numbers = Numbers(
        predicted="b",
        probability=0.7,
        probabilities={"a": 0.3, "b": 0.7},
        trace=0.5,
        eigenvalues=(0.5,),
        trace_share=1.0,
        energy_share=0.25,
        label="a",
    )
    said = texts(case_figure(a_case(numbers=numbers, model="Net 12")))
    for text in ("predicted b, p = 0.700", "label a", "25 % of the image's energy", "Net 12",
                 "0.5 (100 %)", "eigenvalues, trace 0.5", "99.5th percentile",
                 RESEARCH_ONLY, "mm", "R", "A", "S", "axial\nslice 6 of 8"):  # fmt: skip
        assert text in said
    said = texts(case_figure(a_case(sensitivity=None)))
    for way in ("--volumes", "mi.run(volumes=…)", "ifim_volumes"):  # of whichever host
        assert way in said.partition("not written; add 'sensitivity' to")[2].splitlines()[1]


def test_eigenvalues_that_were_left_out_have_a_bar():
    numbers = Numbers("x", 0.9, trace=4.0, eigenvalues=(2.0, 1.0), trace_share=0.75)
    assert "others" in texts(case_figure(a_case(numbers=numbers)))
    zero = Numbers("x", 1.0, trace=0.0, eigenvalues=(0.0,))
    assert "F = 0" in texts(case_figure(a_case(numbers=zero)))


@pytest.mark.parametrize("name", ["$x_{$", "脳\U0001f9e0", "a\udcf6\n<script>", "x" * 300])
def test_any_name_can_be_drawn(name, tmp_path):
    numbers = Numbers(name, 0.9, {name: 0.9, "b": 0.1}, 1.0, (1.0,), 1.0, 0.1, "ok", name)
    case = a_case(name=name, numbers=numbers, channel_names=(name, name), model=name)
    case_figure(case).savefig(tmp_path / "case.png")  # warnings are errors


def test_a_case_without_a_result_is_a_line_that_says_why():
    failed = a_case(numbers=Numbers(status="failed: the logits hold NaN"))
    assert "the logits hold NaN" in texts(case_figure(failed))
    broken = a_case()
    broken.high[0, 0, 0, 0] = np.nan
    assert "NaN or infinity" in texts(case_figure(broken))


def test_colours_of_a_picture():
    parts = components((3, 12, 10, 1), (0, 8, 4, 0))
    case = Case("p", affine=np.eye(4), picture=True, numbers=Numbers("x", 0.9), **parts)
    figure = case_figure(case)
    shapes = [
        np.shape(image.get_array()) for image in figure.findobj(lambda a: hasattr(a, "get_extent"))
    ]
    assert shapes.count((10, 12, 3)) == 4
    assert "px" in texts(figure)
    assert "red, green and blue" in texts(figure)


def test_volumes_that_do_not_fit_are_refused():
    parts = components((1, 4, 4, 4), (0, 1, 1, 1))
    with pytest.raises(ValueError, match="expected orth of 'a' with the shape"):
        Case("a", parts["high"], parts["orth"][:, :2], np.eye(4))
    with pytest.raises(ValueError, match="expected components"):
        Case("a", parts["high"][0], parts["orth"][0], np.eye(4))
    for wrong in ({"percentile": 0}, {"opacity": 2}):
        with pytest.raises(ValueError, match="expected a"):
            Style(**wrong)


def test_a_folder_of_a_run(tmp_path):
    parts = components((4, 8, 9, 6), (2, 3, 4, 2))
    write_run(tmp_path, [("/in/a.nii.gz", parts), ("/in/b.nii.gz", None)])
    (tmp_path / "labels.csv").write_text("file,label\na.nii.gz,2\n/in/b.nii.gz,0\n")
    folder = RunFolder(tmp_path, read_labels(tmp_path / "labels.csv"))
    first, second = (folder.numbers(row) for row in folder.rows)
    assert (first.predicted, first.label) == ("healthy", "malignant")
    assert list(first.probabilities) == ["healthy", "benign", "malignant"]
    assert first.effective_rank == pytest.approx((2.5**2) / (4 + 0.25))
    assert second.failed
    case = folder.case(folder.rows[0])
    assert case is not None
    assert case.high.shape == (4, 8, 9, 6)
    assert np.allclose(case.image, sum(parts[k] for k in ("high", "orth")), atol=1e-4)
    assert np.allclose(case.affine, OBLIQUE, atol=1e-5)
    assert case.model == "Net 0123abcd"
    assert folder.case(folder.rows[1]) is None
    assert write_sheet(tmp_path, tmp_path / "s.png").stat().st_size > 10_000


def test_several_images_of_one_file_have_their_own_volumes(tmp_path):
    files = write_scans(tmp_path / "scans", 3, count=2)
    out = tmp_path / "out"
    save = mi.SaveComponentsd(["ifim_high", "ifim_orth"], out, transform=None)
    SupervisedEvaluator(
        device="cpu",
        val_data_loader=mi.FaultTolerantDataLoader(dataset([files[0], *files]), batch_size=1),
        network=smooth_network(3),
        val_handlers=[mi.IFIMHandler(output_dir=out, postprocessing=save)],
    ).run()
    folder = RunFolder(out)
    names = [{kind: p.name for kind, p in folder.volumes(row).items()} for row in folder.rows]
    assert [name["high"] for name in names] == [
        "scan0_ifim_high.nii.gz",
        "scan0_ifim_high_1.nii.gz",
        "scan1_ifim_high.nii.gz",
    ]
    assert [name["orth"].replace("orth", "high") for name in names] == [n["high"] for n in names]
    case = folder.case(folder.rows[1])
    assert case is not None
    assert case.name == "scan0_1"


@pytest.mark.parametrize("table", ["file,0.1,0.9\n", "a.nii.gz,0.1,0.9\nb,0.2\n", ""])
def test_predictions_of_another_form_are_left_alone(tmp_path, table):
    write_run(tmp_path, [("/in/a.nii.gz", components((1, 6, 6, 6), (0, 1, 1, 1)))])
    (tmp_path / "predictions.csv").write_text(table)
    folder = RunFolder(tmp_path)
    assert folder.numbers(folder.rows[0]).predicted == "0"


def test_labels_with_other_columns_are_refused(tmp_path):
    (tmp_path / "l.csv").write_text("name,class\na,1\n")
    with pytest.raises(ValueError, match="expected the columns file and label"):
        read_labels(tmp_path / "l.csv")


@pytest.mark.parametrize("depth", [2, 5, 17])
def test_names_of_thin_planes_stand_apart(depth):
    """Coronal and sagittal planes of few slices are lower than their names are long."""
    rng = np.random.default_rng(0)
    high, orth = rng.normal(size=(2, 1, 88, 128, depth))
    figure = case_figure(Case("thin", high, orth, np.eye(4), np.abs(high)))
    figure.draw_without_rendering()
    labels = [a.yaxis.label.get_window_extent() for a in figure.axes if "slice" in a.get_ylabel()]
    assert len(labels) == 3
    for i, one in enumerate(labels):
        assert one.x0 >= 0
        assert not any(one.overlaps(other) for other in labels[:i])
