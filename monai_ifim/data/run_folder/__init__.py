"""The folder that a run writes to: what is done in it, by which run, and who may write there."""
