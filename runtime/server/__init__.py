"""HTTP: every dialect that editors and agents speak, over one engine thread."""
