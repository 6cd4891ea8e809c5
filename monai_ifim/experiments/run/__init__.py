"""From a configuration to all its numbers."""
