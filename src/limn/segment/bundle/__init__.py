"""A bundle on disk."""
