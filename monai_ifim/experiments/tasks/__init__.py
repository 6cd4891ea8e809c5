"""What the networks learn: tasks with a known answer, and clinical ones."""
