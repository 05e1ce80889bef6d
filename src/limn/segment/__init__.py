"""Draws the organs: from voxels to labels to polygons."""
