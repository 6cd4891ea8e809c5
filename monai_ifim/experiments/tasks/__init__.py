"""What the networks learn: with a known answer, and clinical tasks."""
