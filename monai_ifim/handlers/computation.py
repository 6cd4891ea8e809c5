"""All that a handler finds out about a batch, whatever fails in it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from monai_ifim.core import EigenspaceOptions, PooledEigenspace, network_name, pooled_digest
from monai_ifim.handlers.inference import Inference
from monai_ifim.handlers.one_by_one import Trial
from monai_ifim.messages import is_failure
from monai_ifim.outputs import BatchOutputs, outputs_of_network
from monai_ifim.questions import Host, Question, answered

logger = logging.getLogger(__name__)


class Computation:
    """The outputs of one batch after another.

    Args:
        on_error: what follows when something raises for one image: ``"row"`` or ``"raise"``.
        within: a pooled eigenspace, in which the components are taken; None for each image's own.
        questions: what else is asked of each image.
    """

    def __init__(
        self, on_error: str, within: PooledEigenspace | None, questions: Sequence[Question]
    ) -> None:
        self.on_error, self.within, self.questions = on_error, within, tuple(questions)
        self._compared = False  # the network with that of the pooled eigenspace
        self._reference: BatchOutputs | None = None  # a batch of this epoch that had results

    @property
    def settings(self) -> dict[str, Any]:
        """What of this makes the results of a run; nothing where nothing was asked for."""
        asked: dict[str, Any] = {"questions": self.questions} if self.questions else {}
        return asked if self.within is None else {**asked, "space": pooled_digest(self.within)}

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
        self._compare(network)
        run = partial(
            outputs_of_network,
            network,
            options=options,
            volumes=volumes,
            within=self.within,
            keep_space=keep_spaces or bool(self.questions),
        )
        try:
            outputs = run(images, predict=predict, kept=kept)
        except Exception as error:
            if self.on_error == "raise":
                raise
            del kept
            outputs = Trial(run, predict, volumes, self._reference).one_by_one(images, error)
        if not all(map(is_failure, outputs.statuses)):
            self._reference = outputs.shapes()

        def function(index: int | None) -> Any:
            if predict is None:
                return network
            return predict if index is None else predict.of_image(index)

        host = Host(network, images, function, batch, options)
        return answered(outputs, self.questions, host)

    def _compare(self, network: nn.Module) -> None:
        """Say once where the components are taken in the eigenspace of another network."""
        if self._compared or self.within is None:
            return
        self._compared = True
        made_by = self.within.about.get("network")
        if made_by is not None and made_by != network_name(network):
            logger.warning(
                "the pooled eigenspace is that of another network (%s), or of other weights; the "
                "components show that one's directions",
                made_by[:40],
            )
