"""What a predictive family knows: how logits become a probability p(y | x), and what follows.

``eigenspace`` needs ``check``, ``contrasts`` and ``factor``; the MONAI hosts also
``probabilities``, ``most_probable`` and ``uncertainty``; perturbation curves and experiments the
rest. A new family is one more small
object with these methods; no code outside its own file asks which family it has.

Source: S. Sengupta and M. A. Anastasio, "Input-Dependent Fisher Information for Local
Sensitivity Analysis of Medical Image Classifiers", arXiv 2606.16362.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from monai_ifim.core.families.roots import Root


class Family(Protocol):
    """What logits mean, for one outcome per image (B, K) or a dense prediction (B, K, *S)."""

    def check(self, logits: Tensor) -> None:
        """Raise ValueError unless the logits can belong to this family."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability of each class or label, (B, K) in float64."""

    def most_probable(self, logits: Tensor) -> tuple[list[str], Tensor]:
        """The most probable outcome of each image as text, and its probability (B,)."""

    def outcome_probability(self, logits: Tensor, reference: Tensor) -> Tensor:
        """Probability of what is the most probable outcome for ``reference``, (B,) in float64."""

    def entropy(self, logits: Tensor) -> Tensor:
        """Entropy of the prediction in nats, (B,) in float64; of several labels the sum."""

    def uncertainty(self, logits: Tensor) -> Tensor:
        """1 - the probability of the most probable outcome, with all its digits, (B,)."""

    def divergence(self, before: Tensor, after: Tensor) -> Tensor:
        """KL(p ‖ q) in nats between two predictions, (B,) in float64."""


class Likelihood(Family, Protocol):
    """A family of one outcome per image, with what the Fisher information needs to know of it."""

    def contrasts(self, logits: Tensor) -> Tensor:
        """Cotangents (M, B, K), one vector-Jacobian product each."""

    def factor(self, logits: Tensor) -> Tensor:
        """Factor B as (B, M, M) in float64: F = S B Bᵀ Sᵀ, S the gradients of the contrasts."""

    def predicted(self, logits: Tensor) -> Tensor:
        """Predicted class (B,), or 0 and 1 for each of several labels (B, L), in int64."""

    def class_table(self, logits: Tensor) -> Tensor | None:
        """Probabilities (B, classes) of classes of which one is true; None for several labels."""

    def outcome_logits(self, logits: Tensor) -> list[tuple[int, int]]:
        """For each image the logit that speaks for the predicted outcome, and its sign."""

    def dense(self) -> DenseFamily:
        """The family of logits (B, K, *S): one outcome at each voxel.

        Raises:
            ValueError: there is none.
        """


class DenseFamily(Family, Protocol):
    """A family of one outcome at each voxel: too many contrasts to form, only their products."""

    def root(self, logits: Tensor) -> Root:
        """Square root of the Fisher matrix of the logits (B, K, *S)."""
