"""Repeatable measurements; each states a ratio against a baseline in the same run."""
