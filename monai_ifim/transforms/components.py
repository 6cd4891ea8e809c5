"""The components of one image as transforms, for pipelines without an engine."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import ensure_tuple_rep
from torch import Tensor, nn

from monai_ifim.changes import Batch, with_changes_of
from monai_ifim.core import (
    EigenspaceOptions,
    OptionKeywords,
    Space,
    chosen_options,
    eigenspace,
    taken_in,
    warn_of_another,
    with_option_keywords,
)
from monai_ifim.data.batches import MODEL_KEY
from monai_ifim.data.provenance import ModelName
from monai_ifim.outputs import batch_outputs, check_volumes, with_metadata

if TYPE_CHECKING:
    from typing_extensions import Unpack


class IFIMComponents(Transform):
    """High-sensitivity and orthogonal component of one preprocessed image.

    Args:
        network: trained classifier, on the device where the work is to be done.
        options: choices about the eigenspace as a value, instead of ``keywords``.
        volumes: which of ``"high"``, ``"orth"``, ``"sensitivity"`` to form.
        space: a pooled eigenspace, or a file of one, in which the components are taken: in its
            ``rank`` leading directions, by default the stable ones. All other numbers stay those
            of the image.
        keywords: the fields of ``EigenspaceOptions``, for example ``rank=5`` or
            ``likelihood="bernoulli"``.

    Raises:
        TypeError: a keyword that is no option.
        ValueError: an unknown volume, an impossible option, or no such pooled eigenspace.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    >>> image = torch.randn(1, 4, 4)
    >>> result = IFIMComponents(network)(image)
    >>> sorted(result)
    ['ifim_eigenvalues', 'ifim_high', 'ifim_orth', 'ifim_rank', 'ifim_trace']
    >>> torch.allclose(result["ifim_high"] + result["ifim_orth"], image)
    True
    """

    @with_option_keywords
    def __init__(
        self,
        network: nn.Module,
        *,
        options: EigenspaceOptions | None = None,
        volumes: str | Sequence[str] = ("high", "orth"),
        space: Space = None,
        **keywords: Unpack[OptionKeywords],
    ) -> None:
        self.network = network
        self.space, self.options = taken_in(space, chosen_options(options, keywords))
        self.volumes = check_volumes(volumes)

    def __call__(
        self, image: Tensor, prefix: str = "ifim", entries: Mapping[Any, Any] | None = None
    ) -> dict[str, Tensor]:
        """Compute the components.

        Args:
            image: (C, *S), preprocessed; the network's device is used.
            prefix: of the keys.
            entries: what else is known of the image, for a ``perturbation`` such as ``MaskOf``.

        Returns:
            The ``ifim_*`` values of this image, without batch axis: volumes (C, *S) with the
            image's metadata, eigenvalues (R,), trace and rank as scalars.

        Raises:
            TypeError: the network does not return one tensor of logits.
            ValueError: image, logits or options that make the answer meaningless.
        """
        image = torch.as_tensor(image)
        parameter = next(self.network.parameters(), None)
        device = image.device if parameter is None else parameter.device
        batch = image.as_subclass(Tensor)[None].to(device)
        beside = {
            key: torch.as_tensor(value)[None]
            for key, value in (entries or {}).items()
            if isinstance(value, Tensor)
            or (isinstance(value, np.ndarray) and value.dtype.kind in "biuf")
        }
        held = Batch.of(beside, with_metadata(batch, image))
        options = with_changes_of(self.options, held)
        space = eigenspace(self.network, batch, options=options)
        warn_of_another(self.space, self.network)
        values = batch_outputs(space, batch, self.volumes, prefix=prefix, within=self.space).values
        return {key: with_metadata(v[0].to(image.device), image) for key, v in values.items()}


class IFIMComponentsd(MapTransform):
    """Dictionary-based wrapper of ``IFIMComponents``.

    Args:
        keys: the preprocessed images, usually just ``"image"``.
        network: trained classifier, on the device where the work is to be done.
        prefix: of the keys written, one for each of ``keys``: ``<prefix>_high`` and so on.
        allow_missing_keys: skip keys that are not there.
        options: choices about the eigenspace as a value, instead of ``keywords``.
        volumes: which of ``"high"``, ``"orth"``, ``"sensitivity"`` to form.
        space: a pooled eigenspace in which the components are taken; see ``IFIMComponents``.
        keywords: the fields of ``EigenspaceOptions``, for example ``rank=5`` or
            ``likelihood="bernoulli"``.

    Raises:
        TypeError: a keyword that is no option.
        ValueError: two keys share a prefix; an unknown volume, or an impossible option.
    """

    @with_option_keywords
    def __init__(
        self,
        keys: KeysCollection,
        network: nn.Module,
        prefix: str | Sequence[str] = "ifim",
        allow_missing_keys: bool = False,
        *,
        options: EigenspaceOptions | None = None,
        volumes: str | Sequence[str] = ("high", "orth"),
        space: Space = None,
        **keywords: Unpack[OptionKeywords],
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.prefixes = ensure_tuple_rep(prefix, len(self.keys))
        if len(set(self.prefixes)) != len(self.keys):
            raise ValueError(
                f"expected one prefix for each of the keys {self.keys}, got {self.prefixes}; "
                "give a list of different prefixes"
            )
        self.components = IFIMComponents(
            network, options=options, volumes=volumes, space=space, **keywords
        )
        self._model_name = ModelName(self.components.space)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the components of each image to the dictionary.

        Args:
            data: one image's dictionary.

        Returns:
            A copy with the new keys, and ``ifim_model``, the network's name for ``descrip``.
        """
        result = dict(data)
        for key, prefix in self.key_iterator(result, self.prefixes):
            result.update(self.components(result[key], prefix, result))
        result[MODEL_KEY] = self._model_name(self.components.network)
        return result
