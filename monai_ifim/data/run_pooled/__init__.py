"""The pooled eigenspace of a run: what each session leaves of it, and the files of the whole."""
