"""Suites of problems, asked of an engine or of a server, and judged."""
