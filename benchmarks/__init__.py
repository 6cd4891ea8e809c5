"""What things cost, one file a claim; ``python -m benchmarks`` runs them all."""
