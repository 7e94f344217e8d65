"""Other people's optimizers as passes: each run is a rewrite in the journal, and is verified like all others."""
