"""The room that translates between DICOM Datasets and our nouns."""
