"""DICOM associations both ways, with bounds on time and memory."""
