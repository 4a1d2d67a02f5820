"""Networks and recipes that others published, by name."""
