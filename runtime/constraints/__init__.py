"""Answers that keep to a schema, a pattern or a grammar."""
