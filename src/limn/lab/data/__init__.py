"""Contoured scans of any origin, imported into one data set."""
