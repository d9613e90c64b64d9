"""Runs calibration text through the layers and observes what they multiply."""
