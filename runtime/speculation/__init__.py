"""Tokens that are guessed from the sequence itself and verified in one step."""
