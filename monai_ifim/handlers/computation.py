"""All that a handler finds out about a batch, whatever fails in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from monai_ifim.changes import Batch, MissingEntry, with_changes_of
from monai_ifim.core import EigenspaceOptions, PooledEigenspace, pooled_summary
from monai_ifim.handlers.inference import Inference
from monai_ifim.handlers.one_by_one import Trial
from monai_ifim.messages import is_failure
from monai_ifim.outputs import BatchOutputs, outputs_of_network
from monai_ifim.questions import Host, Question, answered
from monai_ifim.questions.joint import JointInputs


class Computation:
    """The outputs of one batch after another.

    Args:
        on_error: what follows when something raises for one image: ``"row"`` or ``"raise"``.
        within: a pooled eigenspace, in which the components are taken; None for each image's own.
        questions: what else is asked of each image.
        inputs: of the network that F is about together, with their scales; None for the image.
        pools: whether the images' eigenspaces are pooled.

    Raises:
        ValueError: several inputs with a pooled eigenspace, questions or pooling, or impossible
            scales.
    """

    def __init__(
        self,
        on_error: str,
        within: PooledEigenspace | None,
        questions: Sequence[Question],
        inputs: Mapping[Any, Any] | None = None,
        *,
        pools: bool = False,
    ) -> None:
        self.on_error, self.within, self.questions = on_error, within, tuple(questions)
        self.inputs = JointInputs(inputs) if inputs else None
        if self.inputs is not None and (within is not None or self.questions or pools):
            raise ValueError(
                "expected inputs, or space, questions and pooled, which are about the image alone, "
                "got both; leave one out"
            )
        self._reference: BatchOutputs | None = None  # a batch of this epoch that had results

    @property
    def settings(self) -> dict[str, Any]:
        """What of this makes the results of a run; nothing where nothing was asked for."""
        asked: dict[str, Any] = {"questions": self.questions} if self.questions else {}
        if self.inputs is not None:
            asked["inputs"] = self.inputs.scales
        return asked if self.within is None else {**asked, "space": pooled_summary(self.within)}

    def begin(self) -> None:
        """An epoch begins."""
        self._reference = None

    def of_batch(
        self,
        network: nn.Module,
        images: Tensor,
        predict: Inference | None,
        kept: tuple[Tensor, Any] | None,
        batch: Any,
        *,
        options: EigenspaceOptions,
        volumes: Sequence[str],
        keep_spaces: bool,
    ) -> BatchOutputs:
        """Everything about a batch.

        Args:
            network: unwrapped.
            images: (B, C, *S).
            predict: the engine's inference, None where the network alone is called.
            kept: of a pass whose graph was kept.
            batch: the engine's.
            options: of the eigenspace.
            volumes: to form.
            keep_spaces: for observers that need them.

        Returns:
            The outputs with the answers to all questions.

        Raises:
            Exception: an error that is not an image's; with ``on_error="raise"`` any.
        """
        if self.inputs is not None:
            return self._jointly(self.inputs, network, images, predict, options, volumes)
        held = Batch.of(batch, images)
        run = partial(
            outputs_of_network,
            network,
            volumes=volumes,
            within=self.within,
            keep_space=keep_spaces or bool(self.questions),
        )

        def alone(image: Tensor, own: Any, index: int | None) -> BatchOutputs:
            there = None if index is None else held
            return run(image, options=with_changes_of(options, there, index), predict=own)

        try:
            outputs = run(
                images, options=with_changes_of(options, held), predict=predict, kept=kept
            )
        except Exception as error:
            if self.on_error == "raise" or isinstance(error, MissingEntry):
                raise
            del kept
            outputs = Trial(alone, predict, volumes, self._reference).one_by_one(images, error)
        if not all(map(is_failure, outputs.statuses)):
            self._reference = outputs.shapes()

        def function(index: int | None) -> Any:
            if predict is None:
                return network
            return predict if index is None else predict.of_image(index)

        host = Host(network, images, function, batch, options)
        return answered(outputs, self.questions, host, on_error=self.on_error)

    def _jointly(
        self,
        inputs: JointInputs,
        network: nn.Module,
        images: Tensor,
        predict: Inference | None,
        options: EigenspaceOptions,
        volumes: Sequence[str],
    ) -> BatchOutputs:
        """Everything about a batch, with F of several inputs."""
        if predict is None or options.perturbation is not None:
            raise MissingEntry(
                "expected a MONAI evaluator and all changes of its inputs with inputs=..., got "
                f"perturbation={options.perturbation!r} or another engine; use SeveralInputs"
            )

        def alone(image: Tensor, own: Any, index: int | None) -> BatchOutputs:
            return inputs.outputs(network, image, predict.call(index), options, volumes)

        try:
            outputs = inputs.outputs(network, images, predict.whole, options, volumes)
        except Exception as error:
            if self.on_error == "raise" or isinstance(error, MissingEntry):
                raise
            outputs = Trial(alone, predict, volumes, self._reference).one_by_one(images, error)
        if not all(map(is_failure, outputs.statuses)):
            self._reference = outputs.shapes()
        return outputs
