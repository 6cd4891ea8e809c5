"""Jacobian-vector products J d of one forward pass."""

from __future__ import annotations

import logging

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from monai_ifim.core.gradients.forward import Forward
from monai_ifim.core.gradients.quiet import quiet
from monai_ifim.core.gradients.vjp import backward

# Forward-mode products that are batched: beyond this a product costs as much as in a batch.
_JVP_CHUNK = 16

logger = logging.getLogger(__name__)


class NoForwardProductsError(RuntimeError):
    """The network can be differentiated neither in forward mode nor twice."""


class JacobianVectorProducts:
    """Changes of the logits along changes of the images, J d, for one forward pass.

    Forward mode where the pass can be repeated and its operations know it (on CPU about 1.5
    times a backward pass each); otherwise the backward pass is differentiated once more, on the
    graph that is there already (about 2.2 times).

    Args:
        forward: the pass, with its graph.
    """

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.forward_mode = forward.function is not None
        self._checked = False
        self._twice: tuple[Tensor, Tensor] | None = None

    def __call__(self, changes: Tensor) -> Tensor:
        """Products with M changes of each image; J A u where the pass has a perturbation A.

        Args:
            changes: (B, M, C, *S).

        Returns:
            (M, *L) for logits of shape L, in their dtype.

        Raises:
            NoForwardProductsError: the network can be differentiated neither forwards nor twice.
        """
        changes = changes.transpose(0, 1).to(self.forward.images)
        if self.forward.perturbation is not None:
            changes = self.forward.perturbation.apply(changes)
        if self.forward_mode:
            try:
                return torch.cat([self._forwards(part) for part in changes.split(_JVP_CHUNK)])
            except Exception as error:
                # Autograd functions, checkpoints, compiled networks, code that looks at its
                # tensors: many ways to refuse.
                logger.info("no forward mode, differentiating twice: %s", error)
                self.forward_mode = False
        return torch.stack([self._backwards_twice(change) for change in changes])

    def _forwards(self, changes: Tensor) -> Tensor:
        function, images = self.forward.function, self.forward.images.detach()
        assert function is not None

        def product(change: Tensor) -> Tensor:
            return torch.func.jvp(function, (images,), (change,))[1]

        # Fused attention has no forward mode; the composite one has.
        with quiet(), sdpa_kernel(SDPBackend.MATH):
            products = torch.func.vmap(product, randomness="same")(changes)
        if not self._checked and not self._agrees(changes[0], products[0]):
            raise RuntimeError("forward and reverse mode disagree")
        self._checked = True
        return products.detach()

    def _agrees(self, change: Tensor, product: Tensor) -> bool:
        """Whether ⟨u, J d⟩ = ⟨Jᵀ u, d⟩ for one pair.

        A no_grad() inside the network makes forward mode return zeros in silence. Loose, because
        the repeated pass may see a unit at its kink from the other side.

        Args:
            change: d, (B, C, *S).
            product: J d, of the logits' shape.

        Returns:
            Whether both sides differ by 5 % at the most.
        """
        product, change = product.double().flatten(1), change.double().flatten(1)
        good = torch.isfinite(product).all(dim=1)  # an image with NaN says nothing
        product = torch.where(good[:, None], product, 0)
        cotangent = product / product.norm() if product.any() else torch.ones_like(product)
        cotangent = cotangent.to(self.forward.logits).view_as(self.forward.logits)
        gradient = backward(self.forward, cotangent).double().flatten(1)
        forwards = (cotangent.double().flatten(1) * product)[good].sum()
        backwards = (gradient * change)[good].sum()
        return bool((forwards - backwards).abs() <= 0.05 * backwards.abs())

    def _backwards_twice(self, change: Tensor) -> Tensor:
        """Jᵀ u is linear in u, so its own vector-Jacobian product is J."""
        if self._twice is None:
            cotangent = torch.zeros_like(self.forward.logits, requires_grad=True)
            try:
                gradient = torch.autograd.grad(
                    self.forward.logits, self.forward.images, cotangent, create_graph=True
                )[0]
                torch.autograd.grad(gradient, cotangent, change, retain_graph=True)
            except RuntimeError as error:
                raise NoForwardProductsError(
                    "expected a network that can be differentiated in forward mode or twice, got "
                    f"{type(error).__name__}: {error}; run it without fused attention "
                    "(torch.nn.attention.sdpa_kernel(SDPBackend.MATH)) and without reentrant "
                    "checkpoints, or use method='exact'"
                ) from error
            self._twice = gradient, cotangent
        gradient, cotangent = self._twice
        return torch.autograd.grad(gradient, cotangent, change, retain_graph=True)[0].detach()
