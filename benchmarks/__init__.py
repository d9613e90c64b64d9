"""Measurements: each prints a table and, last, one JSON line that it also keeps in results/."""
