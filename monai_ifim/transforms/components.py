"""Transforms: the components without an engine, and what bundles need around them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    EnsureTyped,
    InvertibleTransform,
    MapTransform,
    ToTensord,
    Transform,
)
from monai.utils import ensure_tuple_rep
from torch import Tensor, nn

from monai_ifim.core import Likelihood, OutputTransform, eigenspace
from monai_ifim.core.checks import check_images, not_finite
from monai_ifim.outputs import check_volumes, components


class IFIMComponents(Transform):
    """High-sensitivity and orthogonal component of one preprocessed image.

    Args:
        network: trained classifier, on the device where the work is to be done.
        likelihood: see ``eigenspace``.
        rank: see ``eigenspace``.
        energy: see ``eigenspace``.
        method: see ``eigenspace``.
        tolerance: see ``eigenspace``.
        output_transform: see ``eigenspace``.
        vjp_chunk: see ``eigenspace``.
        offload: see ``eigenspace``.
        volumes: which of ``"high"``, ``"orth"``, ``"sensitivity"`` to form.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    >>> image = torch.randn(1, 4, 4)
    >>> result = IFIMComponents(network)(image)
    >>> sorted(result)
    ['ifim_eigenvalues', 'ifim_high', 'ifim_orth', 'ifim_rank', 'ifim_trace']
    >>> torch.allclose(result["ifim_high"] + result["ifim_orth"], image)
    True
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        likelihood: str | Likelihood = "categorical",
        rank: int | None = None,
        energy: float | None = None,
        method: str = "auto",
        tolerance: float | None = None,
        output_transform: OutputTransform | None = None,
        vjp_chunk: int | str | None = "auto",
        offload: bool = False,
        volumes: Sequence[str] = ("high", "orth"),
    ) -> None:
        self.network = network
        self.volumes = check_volumes(volumes)
        self.options: dict[str, Any] = {
            "likelihood": likelihood,
            "rank": rank,
            "energy": energy,
            "method": method,
            "tolerance": tolerance,
            "output_transform": output_transform,
            "vjp_chunk": vjp_chunk,
            "offload": offload,
        }

    def __call__(self, image: Tensor, prefix: str = "ifim") -> dict[str, Tensor]:
        """Compute the components.

        Args:
            image: (C, *S), preprocessed; the network's device is used.
            prefix: of the keys.

        Returns:
            The ``ifim_*`` values of this image, without batch axis: volumes (C, *S) with the
            image's metadata, eigenvalues (R,), trace and rank as scalars.

        Raises:
            TypeError: see ``eigenspace``.
            ValueError: see ``eigenspace``.
        """
        image = torch.as_tensor(image)
        parameter = next(self.network.parameters(), None)
        device = image.device if parameter is None else parameter.device
        batch = image.as_subclass(Tensor)[None].to(device)
        space = eigenspace(self.network, batch, **self.options)
        values = components(space, batch, self.volumes, prefix=prefix)
        return {key: _like(value[0].to(image.device), image) for key, value in values.items()}


class IFIMComponentsd(MapTransform):
    """Dictionary-based wrapper of ``IFIMComponents``.

    Args:
        keys: the preprocessed images, usually just ``"image"``.
        network: see ``IFIMComponents``.
        prefix: of the keys written, one for each of ``keys``: ``<prefix>_high`` and so on.
        allow_missing_keys: skip keys that are not there.
        options: all others of ``IFIMComponents``.

    Raises:
        ValueError: two keys share a prefix.
    """

    def __init__(
        self,
        keys: KeysCollection,
        network: nn.Module,
        prefix: str | Sequence[str] = "ifim",
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.prefixes = ensure_tuple_rep(prefix, len(self.keys))
        if len(set(self.prefixes)) != len(self.keys):
            raise ValueError(
                f"expected one prefix for each of the keys {self.keys}, got {self.prefixes}; "
                "give a list of different prefixes"
            )
        self.components = IFIMComponents(network, **options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the components of each image to the dictionary.

        Args:
            data: one image's dictionary.

        Returns:
            A copy with the new keys.
        """
        result = dict(data)
        for key, prefix in self.key_iterator(result, self.prefixes):
            result.update(self.components(result[key], prefix))
        return result


class CheckImaged(MapTransform):
    """Stop an image that the network cannot take, with a sentence that says why.

    Args:
        keys: of the images, channel first.
        channels: how many channels the network takes.
        spatial_dims: how many spatial axes it takes.
        spatial_size: their lengths, for a network that takes no other and no resizing before it.
        allow_missing_keys: skip keys that are not there.

    >>> CheckImaged("image", channels=1, spatial_dims=3)({"image": torch.zeros(30, 8, 8, 8)})
    Traceback (most recent call last):
        ...
    ValueError: expected 1 channel and 3 spatial axes, got an image of shape (30, 8, 8, 8), \
channel first; choose one volume of a 4D file, one slice for a 2D network, or make a colour \
picture grey before this step
    """

    def __init__(
        self,
        keys: KeysCollection,
        channels: int,
        spatial_dims: int,
        spatial_size: Sequence[int] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channels = channels
        self.spatial_dims = spatial_dims
        self.spatial_size = None if spatial_size is None else tuple(spatial_size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Pass the dictionary on unchanged.

        Args:
            data: one image's dictionary.

        Returns:
            The same content.

        Raises:
            ValueError: wrong number of channels or axes, wrong size, NaN or infinity.
        """
        for key in self.key_iterator(data):
            shape = tuple(data[key].shape)
            if len(shape) != self.spatial_dims + 1 or shape[0] != self.channels:
                raise ValueError(
                    f"expected {self.channels} channel{'s' if self.channels > 1 else ''} and "
                    f"{self.spatial_dims} spatial axes, got an image of shape {shape}, channel "
                    "first; choose one volume of a 4D file, one slice for a 2D network, or make "
                    "a colour picture grey before this step"
                )
            if self.spatial_size is not None and shape[1:] != self.spatial_size:
                raise ValueError(
                    f"expected spatial axes of length {self.spatial_size}, got {shape[1:]}; "
                    "crop or resample the image to the size that the network was trained on"
                )
            image = torch.as_tensor(data[key])[None].float()
            check_images(image)
            if not_finite(image).any():
                raise ValueError(
                    "expected finite values, got an image with NaN or infinity; replace them "
                    "before this step, or leave the image out"
                )
        return dict(data)


class SqueezeSingleSliced(MapTransform, InvertibleTransform):
    """Drop the last axis of a single-slice volume (C, H, W, 1), and give it back on inversion.

    Images that are 2D already pass through. Unlike ``SqueezeDimd`` the inverse restores the
    trailing axis and the affine of the file, so that the components lie on the scan's own grid.

    Args:
        keys: of the images, channel first.
        allow_missing_keys: skip keys that are not there.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Squeeze.

        Args:
            data: one image's dictionary.

        Returns:
            A copy, in which (C, H, W, 1) has become (C, H, W).
        """
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            single = image.ndim == 4 and image.shape[-1] == 1
            affine = image.affine.clone() if isinstance(image, MetaTensor) else None
            squeezed = image[..., 0] if single else image
            if isinstance(image, MetaTensor):  # its list of transforms is shared until copied
                squeezed = MetaTensor(squeezed.as_tensor()).copy_meta_from(image)
            self.push_transform(squeezed, extra_info={"single": single, "affine": affine})
            result[key] = squeezed
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Restore axis and affine.

        Args:
            data: one image's dictionary after ``__call__``.

        Returns:
            A copy, in which (C, H, W) is (C, H, W, 1) again where it was.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            info = self.pop_transform(result[key])["extra_info"]
            if info["single"]:
                image = result[key][..., None]
                if isinstance(image, MetaTensor):
                    image.affine = torch.as_tensor(info["affine"])
                result[key] = image
        return result


def traceable_preprocessing(preprocessing: Compose) -> Compose:
    """The same preprocessing, with ``EnsureTyped`` in place of ``ToTensord``.

    ``ToTensord`` forgets how an image was made, and with that its file name and its way back to
    the scan's grid. ``EnsureTyped`` does the same work and remembers.

    Args:
        preprocessing: a bundle's; itself left as it is.

    Returns:
        A new ``Compose`` of the same transforms.
    """
    return Compose([_traceable(t) for t in preprocessing.transforms], lazy=preprocessing.lazy)


def _traceable(transform: Any) -> Any:
    if isinstance(transform, Compose):
        return traceable_preprocessing(transform)
    if not isinstance(transform, ToTensord):
        return transform
    converter = transform.converter
    return EnsureTyped(
        transform.keys,
        dtype=converter.dtype,
        device=converter.device,
        track_meta=converter.track_meta,
        allow_missing_keys=transform.allow_missing_keys,
    )


def _like(value: Tensor, image: Tensor) -> Tensor:
    """With the image's metadata, so that file name and affine travel along."""
    if not isinstance(image, MetaTensor):
        return value
    return MetaTensor(value).copy_meta_from(image)
