"""Scans with contours, of any make, as one data set."""
