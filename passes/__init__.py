"""The built-in passes and rule packs of graphopt; they use its public API only."""
