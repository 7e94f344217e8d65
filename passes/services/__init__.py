"""Passes that change the form of a model, not what it computes: they run only where they are asked for."""
