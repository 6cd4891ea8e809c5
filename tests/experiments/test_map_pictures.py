"""Maps of attribution methods as pictures, in results.json and on the page."""

import numpy as np
import torch
from torch import nn

from monai_ifim.experiments.maps.pictures import map_pictures
from monai_ifim.experiments.pictures import plane, rounded
from monai_ifim.report.evidence.blocks import Single
from monai_ifim.report.evidence.pictures import draw_maps


def made_single(network, pictures):
    numbers = {"maps": {"images": 4, "methods": {}, "pictures": pictures}}
    return Single({"experiment": "signal_2d", "task": {"name": "signal_2d"}}, network, numbers)


def test_planes_and_numbers():
    volume = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    assert torch.equal(plane(volume), volume[0, :, :, 3])
    assert rounded(torch.tensor([[1.0, -4.0], [0.0, 2.0]])) == [[0.25, -1.0], [0.0, 0.5]]
    assert rounded(torch.zeros(1, 2)) == [[0.0, 0.0]]


def test_each_method_is_asked_for_the_predicted_class():
    asked = []

    def explain(model, inputs, targets, **ignored):
        asked.append((type(inputs), targets.tolist()))
        return 3 * inputs

    network = nn.Sequential(nn.Flatten(), nn.Linear(20, 3)).eval()
    images = torch.randn(2, 1, 4, 5)
    found = map_pictures(network, images, {"own": explain})
    assert asked == [(np.ndarray, network(images).argmax(dim=1).tolist())]
    assert found["predicted"] == asked[0][1]
    assert found["images"] == found["maps"]["own"]
    assert np.abs(found["images"]).max(axis=(1, 2)).tolist() == [1.0, 1.0]


def test_a_row_for_each_image_and_a_column_for_each_method():
    image = [[0.0, 1.0], [0.5, 1.0]]
    plain = {"ifim": [image] * 2, "random_numbers": [image] * 2}
    more = {**plain, "grad_cam": [image] * 2}
    figure = draw_maps(
        [
            made_single("vit", {"images": [image] * 2, "maps": plain, "predicted": [1, 0]}),
            made_single("cnn", {"images": [image] * 2, "maps": more}),
            made_single("resnet18", None),
        ]
    )
    assert len(figure.axes) == 4 * 3  # the image, two methods; random numbers are not shown
    assert [text.get_text() for axis in figure.axes for text in axis.texts] == [
        *("class 1", "none", "class 0", "none"),
    ]
    assert [axis.get_title() for axis in figure.axes][:3] == [
        "an image",
        "iFIM\nsensitivity",
        "Grad-CAM",
    ]
    assert draw_maps([made_single("cnn", None)]) is None
