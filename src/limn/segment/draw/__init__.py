"""Voxels to clean labels to polygons."""
