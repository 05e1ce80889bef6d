"""The room that draws: voxels to labels to polygons."""
