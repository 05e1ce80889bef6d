"""Draws the picture of a scan by which a person decides: the sheet, its cuts, panels and words."""
