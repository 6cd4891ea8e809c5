"""From files to batches, and from results to files."""
