"""Checks that a result computes what its original computes."""
