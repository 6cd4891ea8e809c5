"""The components of one image as transforms, for pipelines without an engine."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import ensure_tuple_rep
from torch import Tensor, nn

from monai_ifim.core import Likelihood, OutputTransform, eigenspace
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


def _like(value: Tensor, image: Tensor) -> Tensor:
    """With the image's metadata, so that file name and affine travel along."""
    if not isinstance(image, MetaTensor):
        return value
    return MetaTensor(value).copy_meta_from(image)
