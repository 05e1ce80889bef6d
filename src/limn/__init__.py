"""limn: a DICOM node that contours a mouse while it sleeps.

Only the command line and ``limn.__version__`` are public; a Python API does not exist yet.
"""

__version__ = "0.1.0"
