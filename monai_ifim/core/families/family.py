"""What a predictive family knows: how logits become a probability p(y | x), and what follows.

A new family is one more small object with these methods (``docs/architecture.md`` says who needs
which); no code outside its own file asks which family it has. Rows of logits with NaN give NaN and
do not raise. K is the number of logits; the number Q of probabilities can be another one.

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
        """Probability of each class or label, (B, Q) in float64; rows of NaN where undefined."""

    def most_probable(self, logits: Tensor) -> tuple[list[str], Tensor]:
        """The most probable outcome of each image as text, and its probability (B,).

        Numbers of classes joined by ``+`` become names in tables; other text stays as it is.
        """

    def outcome_probability(self, logits: Tensor, reference: Tensor) -> Tensor:
        """Probability of what is the most probable outcome for ``reference``, (B,) in float64."""

    def entropy(self, logits: Tensor) -> Tensor:
        """Entropy of the prediction in nats, (B,) in float64; of several labels the sum."""

    def uncertainty(self, logits: Tensor) -> Tensor:
        """1 - the probability of the most probable outcome, with all its digits, (B,)."""

    def divergence(self, before: Tensor, after: Tensor) -> Tensor:
        """KL(p ‖ q) in nats between two predictions, (B,) in float64, with the digits of 1e-10."""


class Likelihood(Family, Protocol):
    """A family of one outcome per image, with what the Fisher information needs to know of it."""

    def contrasts(self, logits: Tensor) -> Tensor:
        """Linear combinations of the logits, (M, B, K): one backward pass each."""

    def factor(self, logits: Tensor) -> Tensor:
        """Factor W, (B, M, M) in float64: F = S W Wᵀ Sᵀ, S the gradients of the contrasts."""

    def predicted(self, logits: Tensor) -> Tensor:
        """Predicted class or count (B,), or 0 and 1 of several labels (B, L), in int64."""

    def class_table(self, logits: Tensor) -> Tensor | None:
        """Probabilities (B, classes) of classes of which one is true; None where there are none."""

    def outcome_logits(self, logits: Tensor) -> list[tuple[int, int]]:
        """For each image the logit that speaks for the predicted outcome, and its sign."""

    def flips(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """By how much each contrast must rise for another answer, and which one, both (B, M)."""

    def dense(self) -> DenseFamily:
        """The family of logits (B, K, *S): one outcome at each voxel.

        Raises:
            ValueError: there is none.
        """


class DenseFamily(Family, Protocol):
    """A family of one outcome at each voxel: too many contrasts to form, only their products."""

    def root(self, logits: Tensor) -> Root:
        """Square root of the Fisher matrix of the logits (B, K, *S)."""
