"""The server as an application of Ray Serve: replicas of engines behind one address."""
