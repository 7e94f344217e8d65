"""Measures which rewrites pay on a target, and writes the table that decides: see `__main__`."""
