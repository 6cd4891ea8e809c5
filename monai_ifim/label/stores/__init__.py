"""Where images, labels and scores of the MONAI Label app are kept."""
