"""Figures over images, with bootstrap intervals."""
