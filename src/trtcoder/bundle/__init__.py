"""The engine folder: its files, its manifest, its certificate."""
