"""A second bundle that draws delivered scans again, whenever live scans leave the host alone."""
