"""Runs the networks: a scan in, labels out."""
