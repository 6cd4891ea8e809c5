"""Transforms: the components without an engine, and what bundles need around them."""
