"""Configuration files to add to somebody's bundle; ``python -m monai_ifim config NAME``."""
