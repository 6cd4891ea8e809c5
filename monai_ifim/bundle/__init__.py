"""A MONAI bundle: its folder, configuration, classifier and images."""
