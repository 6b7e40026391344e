"""A session to a vector, for every caller."""
