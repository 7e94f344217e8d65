"""The rule author's kit: random examples of rules, what becomes of them, and golden tests."""
