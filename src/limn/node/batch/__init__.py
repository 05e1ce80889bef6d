"""Folders contoured without a scanner, here or by a running node."""
