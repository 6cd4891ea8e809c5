"""Our operators beside the SDK's own."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from _helpers.deploy import BUNDLE, run_application, write_study

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("holoscan") is None,
        reason="the MONAI Deploy App SDK has an environment of its own: make deploy-test",
    ),
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
]


def images_of(folder: Path):
    """The series as the SDK's operator and as ours make it."""
    from monai.deploy.core import Fragment
    from monai.deploy.operators import (
        DICOMDataLoaderOperator,
        DICOMSeriesSelectorOperator,
        DICOMSeriesToVolumeOperator,
    )

    from monai_ifim.deploy import SeriesOperator

    fragment = Fragment()
    load = DICOMDataLoaderOperator(fragment, input_folder=folder, name="load")
    select = DICOMSeriesSelectorOperator(fragment, name="select")
    rules, made = {"selections": [{"name": "MR", "conditions": {"Modality": "MR"}}]}, []
    for number, kind in enumerate((DICOMSeriesToVolumeOperator, SeriesOperator)):
        selected = select.filter(rules, load.load_data_to_studies(folder))
        made.append(kind(fragment, name=f"image{number}").convert_to_image(selected))
    return made


def world(image, axes=3):
    """Every value by its place in the patient."""
    from monai_ifim.deploy.images import array_of

    array, affine = array_of(image, axes)
    index = np.argwhere(np.ones(array.shape))
    places = np.round(index @ affine[:3, :3].T + affine[:3, 3], 3) + 0.0
    return dict(zip(map(tuple, places), array.ravel(), strict=True))


def test_square_pixels_lie_where_the_sdk_has_them(tmp_path):
    write_study(tmp_path, range(1, 6), PixelSpacing=[0.5, 0.5])
    theirs, ours = map(world, images_of(tmp_path))
    assert theirs.keys() == ours.keys()
    assert all(ours[place] == pytest.approx(value, abs=1e-6) for place, value in theirs.items())


def test_spacings_that_the_sdk_exchanges_are_refused(tmp_path):
    """If this fails the SDK has been corrected: then our message can go."""
    values = write_study(tmp_path, range(1, 6))
    theirs, ours = images_of(tmp_path)
    with pytest.raises(ValueError, match="pixels that are not square"):
        world(theirs)
    assert sorted(world(ours).values()) == pytest.approx(
        sorted(np.concatenate([v.ravel() for v in values.values()])), abs=1e-5
    )


STOCK = """
from pathlib import Path
from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application, Image, IOType, Operator
from monai.deploy.operators import (
    BundleConfigNames, DICOMDataLoaderOperator, DICOMSeriesSelectorOperator, IOMapping,
    MonaiBundleInferenceOperator,
)
from monai_ifim.deploy import SeriesOperator


class Sink(Operator):
    def setup(self, spec):
        spec.input("pred")

    def compute(self, op_input, op_output, context):
        print("got", type(op_input.receive("pred")).__name__, flush=True)


class App(Application):
    def compose(self):
        context = Application.init_app_context(self.argv)
        context.models = None  # it takes a bundle's folder for a server's models
        load = DICOMDataLoaderOperator(
            self, CountCondition(self, 1), input_folder=Path(context.input_path), name="load"
        )
        select = DICOMSeriesSelectorOperator(self, name="select")
        image = SeriesOperator(self, name="image")
        stock = MonaiBundleInferenceOperator(
            self, name="stock", app_context=context, bundle_path=context.model_path,
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            bundle_config_names=BundleConfigNames(postproc_name=POST),
        )
        series = "study_selected_series_list"
        self.add_flow(load, select, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(select, image, {(series, series)})
        self.add_flow(image, stock, {("image", "image")})
        self.add_flow(stock, Sink(self, name="sink"), {("pred", "pred")})
        stock.app_context = context  # the constructor forgets it


App().run()
print("ended")
"""


@pytest.mark.parametrize("post", ["post_transforms", "postprocessing"])
def test_the_sdks_own_operator_ends_without_a_crash(tmp_path, post):
    """IFIMInferer runs in a thread that Holoscan ends; with the second nobody asks for more."""
    write_study(tmp_path / "series")
    script = tmp_path / "app.py"
    script.write_text(STOCK.replace("POST", repr(post)))
    done = run_application("-i", tmp_path / "series", "-m", BUNDLE, script=(script,))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["got", "dict", "ended"]
