"""Real clients against a real server, on a machine that reaches nothing else (`make clients`)."""
