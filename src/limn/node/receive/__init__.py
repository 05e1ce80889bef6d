"""In: instances from scanners and folders, until a series is whole."""
