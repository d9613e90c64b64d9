"""Runs the graph: session, runner, batch."""
