"""Preprocessing that moves every voxel, its inversion, and files that are back on their grid."""

import nibabel as nib
import numpy as np
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    Resized,
    SaveImaged,
    ScaleIntensityd,
    Spacingd,
)

WRITER = "monai_ifim.AtomicNibabelWriter"


def geometric_preprocessing():
    """Reoriented, resampled and resized: nothing is where the file has it."""
    return Compose(
        [
            LoadImaged("image", image_only=True),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="PIR", labels=None),
            Spacingd("image", pixdim=(1.1, 0.9, 1.7), mode="bilinear"),
            Resized("image", spatial_size=(9, 10, 12), mode="trilinear"),
            ScaleIntensityd("image", minv=-1.0, maxv=1.0),
        ]
    )


def inverted_and_saved(transform, folder, volumes=("high", "orth")):
    """What a bundle's postprocessing does with the components, and with the network's input."""
    names = {f"ifim_{v}": f"ifim_{v}" for v in volumes} | {"image": "input"}
    return Compose(
        [
            Invertd(
                list(names),
                transform=transform,
                orig_keys="image",
                nearest_interp=False,
                to_tensor=True,
            ),
            *(
                SaveImaged(
                    key,
                    output_dir=str(folder),
                    output_postfix=postfix,
                    separate_folder=False,
                    resample=False,
                    print_log=False,
                    writer=WRITER,
                )
                for key, postfix in names.items()
            ),
        ]
    )


def assert_files_on_scan_grid(files, folder, volumes=("high", "orth")):
    for file in files:
        scan = nib.load(file)
        stem = file.rsplit("/", 1)[1].removesuffix(".nii.gz")
        read = {}
        for name in [*(f"ifim_{v}" for v in volumes), "input"]:
            volume = nib.load(folder / f"{stem}_{name}.nii.gz")
            assert volume.shape == scan.shape
            np.testing.assert_allclose(volume.affine, scan.affine, rtol=0, atol=1e-5)
            read[name] = volume.get_fdata()
        total = read["ifim_high"] + read["ifim_orth"]
        assert np.abs(total - read["input"]).max() <= 1e-5 * np.abs(read["input"]).max()
        # Neither component is the whole of it.
        assert np.abs(read["ifim_high"]).max() > 1e-3 * np.abs(read["input"]).max()
        assert np.abs(read["ifim_orth"]).max() > 1e-3 * np.abs(read["input"]).max()
