"""Programs that Optimum's environment runs."""
