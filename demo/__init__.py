"""The demo checkpoint and its recipe."""
