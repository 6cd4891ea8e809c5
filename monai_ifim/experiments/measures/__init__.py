"""What is measured on one classifier."""
