"""Corrections: what is done to weights and scales so that fewer bits lose less, in closed form and without training."""
