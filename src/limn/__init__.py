"""limn: a DICOM node that contours a mouse while it sleeps."""

__version__ = "0.1.0"
