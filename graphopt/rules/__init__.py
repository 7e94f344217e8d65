"""The rule language: expressions, tracing, matching."""
