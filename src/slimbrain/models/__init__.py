"""The networks of both stages, and their weights: written, read, on the Hub."""
