"""The nodes of an autograd graph."""


def nodes(tensor):
    """All nodes behind a tensor, each once."""
    seen, queue = set(), [tensor.grad_fn]
    while queue:
        node = queue.pop()
        if node is not None and node not in seen:
            seen.add(node)
            queue.extend(parent for parent, _ in node.next_functions)
    return seen


def names(tensor):
    """The kinds of nodes behind a tensor."""
    return {type(node).__name__ for node in nodes(tensor)}


def taken(tensor):
    """Our own nodes for convolutions and batch norms behind a tensor, sorted by name."""
    ours = ("_BatchNormBackward", "_ConvolutionBackward")
    return sorted(name for node in nodes(tensor) if (name := type(node).__name__) in ours)
