"""The viewer of a scan's page: planes with contours, and surfaces, of one scan at a time."""
