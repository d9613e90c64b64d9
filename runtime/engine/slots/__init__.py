"""Runs compiled plans: a batch of slots instead of pages."""
