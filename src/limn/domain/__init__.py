"""The data types that all rooms share: geometry, scans, timing, errors; they need only NumPy."""
