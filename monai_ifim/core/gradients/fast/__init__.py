"""Input gradients that take less time on a CPU than autograd's."""
