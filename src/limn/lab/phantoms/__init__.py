"""Phantoms as DICOM series and data sets."""
