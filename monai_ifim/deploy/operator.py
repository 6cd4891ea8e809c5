"""An operator of the MONAI Deploy App SDK: an image to its prediction, numbers and components."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from monai.deploy.core import ConditionType, Operator

from monai_ifim.core import OptionKeywords, Space, with_option_keywords
from monai_ifim.deploy.classifier import InMemoryBundle
from monai_ifim.deploy.images import array_of, image_of

if TYPE_CHECKING:
    from typing_extensions import Unpack


class IFIMOperator(Operator):
    """Prediction, numbers and components of an image by a classification bundle.

    Named input:
        image: ``Image`` (slices, rows, columns) that ``SeriesOperator`` made of a DICOM series.

    Named outputs, each of which may be left unconnected:
        prediction: probabilities of the classes or labels, by name.
        numbers: dictionary ready for JSON: prediction, trace, eigenvalues, ..., and ``model``.
        high, orth, sensitivity: those in ``volumes``, each an ``Image`` in float32 on the grid of
            the input.

    The components describe what the classifier is locally sensitive to: research use only. No
    graph and no tensor stays in the thread, which the host may end.

    Args:
        fragment: the application.
        args: of ``Operator``: conditions and resources.
        bundle: folder of the bundle.
        volumes: which of ``"high"``, ``"orth"``, ``"sensitivity"`` to form.
        device: where to compute; the GPU when empty and there is one.
        space: a pooled eigenspace, or a file of one, in which the components are taken; ``rank``
            counts its directions then.
        name: of the operator.
        keywords: the fields of ``EigenspaceOptions``, for example ``rank=5``; the likelihood is
            the bundle's where none is named.

    Raises:
        TypeError: a keyword that is no option.
        ValueError: the folder is no classification bundle, or an impossible option.
    """

    @with_option_keywords
    def __init__(
        self,
        fragment: Any,
        *args: Any,
        bundle: str | os.PathLike[str],
        volumes: str | tuple[str, ...] = ("high", "orth"),
        device: str = "",
        space: Space = None,
        name: str = "ifim",
        **keywords: Unpack[OptionKeywords],
    ) -> None:
        self.bundle = InMemoryBundle(bundle, volumes, device, keywords, space)
        super().__init__(fragment, *args, name=name)

    def setup(self, spec: Any) -> None:
        """Declare the ports.

        Args:
            spec: of the SDK.
        """
        spec.input("image")
        for port in ("prediction", "numbers", *self.bundle.volumes):
            spec.output(port).condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Take an image, and give its results.

        Args:
            op_input: of the SDK.
            op_output: of the SDK.
            context: of the SDK.
        """
        image = op_input.receive("image")
        array, affine = array_of(image, self.bundle.axes)
        result = self.bundle.run(array, affine, _name(image))
        op_output.emit(dict(result.numbers["probabilities"]), "prediction")
        op_output.emit({**result.numbers, "model": result.model}, "numbers")
        for component, volume in result.volumes.items():
            op_output.emit(image_of(volume, image), component)


def _name(image: Any) -> str:
    metadata = image.metadata() or {}
    return f"series {metadata['SeriesInstanceUID']}" if "SeriesInstanceUID" in metadata else "image"
