"""The last linear layer of a classifier, and the order that it gives to the directions.

With logits z = W h + b and features h of width H, F = J_hᵀ (Wᵀ M W) J_h. So the rank of F is at
most min(K - 1, H), and the spectrum of the small matrix Wᵀ M W = Σ σ_j² u_j u_jᵀ orders the
directions before any pass through the network: what is left out after the leading q adds at most
σ²_{q+1} ‖J_h‖² to an eigenvalue.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_ifim.core.families.roots import ContrastRoot, unit_scale

# What leaves every logit where it is.
_VIEWS = ("Alias", "View", "Reshape", "UnsafeView", "Clone", "ToCopy", "Unsqueeze", "Squeeze")
# Directions whose σ² lies below this share of the largest are rounding of the eigensolver.
_ROUNDING = 1e-14


def head_weight(logits: Tensor, head: nn.Linear | None = None) -> Tensor | None:
    """Weights of the linear layer that made the logits.

    Read from the graph, so that nobody has to name the layer: with frozen parameters the last
    operation is a product with the transposed weights, which it keeps for the backward pass.

    Args:
        logits: (B, K), with their graph.
        head: the layer, where the graph does not show it.

    Returns:
        W as (K, H), or None when the network does not end in a linear layer.

    Raises:
        ValueError: ``head`` has another number of outputs than there are logits.
    """
    if head is not None:
        if not isinstance(head, nn.Linear) or head.out_features != logits.shape[1]:
            raise ValueError(
                f"expected head as the nn.Linear that makes the {logits.shape[1]} logits, got "
                f"{head}; leave it out to have it found"
            )
        return head.weight.detach()
    node = logits.grad_fn
    names = ("AddmmBackward0", "MmBackward0")
    while node is not None and node.name() not in names:
        # Nothing but views and copies may lie between.
        if not node.name().startswith(_VIEWS):
            return None
        node = node.next_functions[0][0]
    # Weights or a bias that depend on the image (a hypernetwork, a second branch) do not count.
    inputs = [] if node is None else [parent for parent, _ in node.next_functions]
    if len([parent for parent in inputs if parent is not None]) != 1 or inputs[-2] is None:
        return None
    weight = getattr(node, "_saved_mat2", None)
    if not isinstance(weight, Tensor) or weight.shape[1] != logits.shape[1]:
        return None
    return weight.detach().T


def leading_coordinates(root: ContrastRoot, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Coordinates of the root in falling order of what they can do to the logits.

    Args:
        root: of the family, for logits (B, K).
        weight: W of the head, (K, H); None takes the logits themselves as the features.

    Returns:
        Orthonormal rows (B, Q, D) and their σ² (B, Q), both in float64, scaled as the root is;
        Q = min(D, H). σ² is 0 for what is rounding, and for an image that is not finite.
    """
    reach = root.matrix if weight is None else weight.double().T @ root.matrix
    narrow = reach.shape[1] < reach.shape[2]
    gram = reach @ reach.transpose(1, 2) if narrow else reach.transpose(1, 2) @ reach
    finite = torch.isfinite(gram).flatten(1).all(dim=1)[:, None, None]
    unit = unit_scale(gram.flatten(1))[:, None]
    gram = torch.where(finite, gram / unit[:, :, None], torch.eye(gram.shape[1]).to(gram))
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(1), vectors.flip(2)
    values = torch.where(values > _ROUNDING * values[:, :1], values, 0)
    if narrow:  # from the features back to the coordinates
        vectors = torch.where(finite, reach, 0).transpose(1, 2) @ vectors
        vectors = torch.linalg.qr(vectors).Q
    return vectors.transpose(1, 2), torch.where(finite[:, 0], values * unit, 0)
