"""Fisher information from its definition: dense, slow, float64. Shares nothing with the package.

F(x) = E_y[grad log p(y|x) grad log p(y|x)ᵀ] with every outcome y written out, as one N x N
matrix per image. A family is the function that turns the logits of one image into the
log-probabilities of all its outcomes.
"""

from itertools import product

import torch
from torch.func import jacrev
from torch.nn.functional import log_softmax, logsigmoid


def categorical(logits):
    """K outcomes of (K,) logits."""
    return log_softmax(logits, dim=0)


def bernoulli(logits):
    """2**L outcomes of (L,) logits, each label present or absent."""
    signs = torch.tensor(list(product((-1.0, 1.0), repeat=len(logits))), dtype=logits.dtype)
    return logsigmoid(signs * logits).sum(dim=1)


FAMILIES = {"categorical": categorical, "bernoulli": bernoulli}


def chosen(classes):
    """The outcomes of a softmax given that one of some classes is true."""
    return lambda logits: log_softmax(log_softmax(logits, dim=0)[classes], dim=0)


def merged(groups):
    """The outcomes of a softmax with classes taken together, which all are in some group."""
    return lambda logits: torch.stack(
        [log_softmax(logits, dim=0)[group].logsumexp(dim=0) for group in groups]
    )


def _log_probabilities(family):
    """Of a family by name, or the function itself."""
    return FAMILIES[family] if isinstance(family, str) else family


def jacobian(network, image):
    """d logits / d image as (K, N), for one image (C, *S)."""
    return jacrev(lambda x: network(x[None])[0])(image.double()).flatten(1).detach()


def fisher(network, images, family):
    """F as (B, N, N) for a float64 network in eval mode."""
    log_probabilities = _log_probabilities(family)
    return torch.stack([_fisher(network, image, log_probabilities) for image in images])


def _fisher(network, image, log_probabilities):
    logits = network(image[None])[0].detach()
    scores = jacrev(log_probabilities)(logits) @ jacobian(network, image)
    root = torch.exp(log_probabilities(logits) / 2)[:, None] * scores
    return root.T @ root


def saturated_fisher(jacobian, logits):
    """F of a softmax as a sum of positive terms over pairs of classes: sum p_c p_k d_ck d_ckᵀ.

    d_ck = grad(z_c - z_k). The definition above subtracts nearly equal gradients when one
    class has all the probability; these terms are all positive and keep every digit.
    """
    p = log_softmax(logits, dim=0).exp()
    pairs = list(zip(*torch.triu_indices(len(p), len(p), 1).tolist(), strict=True))
    rows = torch.stack([(p[c] * p[k]).sqrt() * (jacobian[c] - jacobian[k]) for c, k in pairs])
    return rows.T @ rows


def eigh(matrices):
    """Eigenvalues (B, N) descending, eigenvectors (B, N, N) as columns."""
    values, vectors = torch.linalg.eigh(matrices)
    return values.flip(1), vectors.flip(2)


def projector(vectors, rank):
    """V Vᵀ of the leading columns, (N, N)."""
    return vectors[:, :rank] @ vectors[:, :rank].T


def divergence(network, images, others, family):
    """KL(p(images) || p(others)) over every outcome, (B,)."""
    before, after = network(images).detach(), network(others).detach()
    pairs = zip(before, after, strict=True)
    log_probabilities = _log_probabilities(family)
    logs = [(log_probabilities(p), log_probabilities(q)) for p, q in pairs]
    return torch.stack([(p.exp() * (p - q)).sum() for p, q in logs])
