"""Files of other formats than DICOM: images come in, labels and surfaces go out."""
