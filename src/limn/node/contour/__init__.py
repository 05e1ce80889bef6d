"""Contouring: scans to the workers and back."""
