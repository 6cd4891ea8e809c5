"""What is trained, and the classifier that comes out."""
