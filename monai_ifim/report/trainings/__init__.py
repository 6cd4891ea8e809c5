"""The page about what several trainings of a network share."""
