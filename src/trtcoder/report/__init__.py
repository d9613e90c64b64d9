"""What engines' certificates say, for people: a page of one engine, a comparison of two."""
