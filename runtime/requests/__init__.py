"""One request: what is asked, and its answers as they come."""
