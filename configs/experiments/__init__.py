"""Configurations of the experiments, one each."""
