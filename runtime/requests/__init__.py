"""One request from prompt ids to its last piece of text."""
