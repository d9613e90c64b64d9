"""What can be built: plan, artifact, manifest."""
