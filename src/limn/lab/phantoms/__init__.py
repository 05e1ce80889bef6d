"""Phantoms written as DICOM series and as data sets."""
