"""Filling in the middle, as all dialects share it."""
