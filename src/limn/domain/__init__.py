"""The words everyone speaks: geometry, scans, timing, errors. NumPy alone."""
