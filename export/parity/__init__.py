"""Holds an engine against the reference."""
