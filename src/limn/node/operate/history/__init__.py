"""What the scan log tells afterwards: which scans, what is usual, why one was slow."""
