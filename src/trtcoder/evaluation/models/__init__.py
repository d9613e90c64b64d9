"""Who is asked: an engine in this process, or a server."""
