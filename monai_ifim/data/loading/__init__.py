"""Which images a loader has still to load, and what happens when a worker of it dies."""
