"""What only a GPU shows: five steps, prepared where a network is and run where none is."""
