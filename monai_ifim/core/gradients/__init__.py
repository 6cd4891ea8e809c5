"""Forward passes, and their products with the Jacobian."""
