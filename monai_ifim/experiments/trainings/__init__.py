"""What several trainings of a network share: single, smoothed and pooled eigenspaces compared."""
