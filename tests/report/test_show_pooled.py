"""Pictures of pooled eigenvectors, and the command that draws them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import monai_ifim as mi
from monai_ifim.cli import main

matplotlib = pytest.importorskip("matplotlib")


def texts(figure) -> str:
    found = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return " ".join(" ".join(artist.get_text().split()) for artist in found)


def pooled(*shape, classes=3, count=12, about=None):
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        size = int(np.prod(shape))
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(size, classes))
    space = mi.pooled_eigenspace(network, torch.randn(count, *shape, generator=generator))
    return replace(space, about={**space.about, **(about or {})})


def pictures(figure):
    return [(axis.get_title(), axis.images[0].get_array()) for axis in figure.axes if axis.images]


def test_a_picture_raw_beside_filtered():
    space = pooled(1, 16, 12, about={"images": "14"})
    figure = mi.show_pooled(space, blur=1.5, most=1)
    said = texts(figure)
    assert "Single pixels depend on the training" in said
    assert "Research use only" in said
    assert "Pooled over 12 of 14 images" in said
    shown = pictures(figure)
    assert [title for title, _ in shown[:2]] == ["raw", "low-pass filtered"]
    raw, smooth = shown[0][1], shown[1][1]
    assert raw.shape == (12, 16)  # columns of the tensor to the right, rows downwards
    np.testing.assert_allclose(raw, space.eigenvectors[0, 0].numpy().T, atol=1e-6)
    assert np.abs(np.diff(smooth, axis=0)).mean() < 0.3 * np.abs(np.diff(raw, axis=0)).mean()
    assert len(shown) == 4  # the mean Jacobian below it
    assert "baseline: mean Jacobian" in said
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_volumes_are_turned_by_the_stored_affine():
    affine = np.diag([-1.0, 1.0, 2.5, 1.0]).tolist()
    figure = mi.show_pooled(pooled(2, 6, 7, 5, about={"grid": json.dumps(affine)}), most=2)
    said = texts(figure)
    assert "raw axial" in said
    assert "low-pass filtered sagittal" in said
    assert " mm" in said
    assert "of 2" in said  # the channel
    assert len(pictures(figure)) == 3 * 6
    assert "across axis 1" in texts(mi.show_pooled(pooled(1, 6, 7, 5)))


def test_slices_of_scans_have_the_patients_sides():
    affine = np.diag([-1.0, 1.0, 2.5, 1.0])
    affine[:3, 3] = [3.0, 4.0, 5.0]
    assert " R " in f" {texts(mi.show_pooled(pooled(1, 8, 9), affine=affine))} "


@pytest.mark.parametrize(
    ("choices", "told"),
    [({"channel": 1}, "channel from 0 to 0"), ({"most": 0}, "at least one eigenvector")],
)
def test_impossible_choices(choices, told):
    with pytest.raises(ValueError, match=told):
        mi.show_pooled(pooled(1, 8, 8), **choices)


def test_signals_cannot_be_drawn():
    with pytest.raises(ValueError, match="only slices and volumes"):
        mi.show_pooled(pooled(1, 20))


def test_the_command(tmp_path, capsys):
    space = pooled(1, 16, 12, about={"images": "14"})
    file, picture = tmp_path / "pooled.safetensors", tmp_path / "pooled.png"
    space.save(file)
    arguments = [str(file), "--picture", str(picture), "--reference", str(file), "--most", "1"]
    assert main(["pooled", *arguments]) == 0
    said = capsys.readouterr().out
    assert "images: 14" in said
    assert f"network: {space.about['network']}" in said
    assert "angles to" in said
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_command_on_another_file(tmp_path, capsys):
    (tmp_path / "pooled.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(SystemExit):
        main(["pooled", str(tmp_path / "pooled.safetensors")])
    assert "expected a complete file of tensors" in capsys.readouterr().err
