"""Translates between DICOM Datasets and the data types of `limn.domain`."""
