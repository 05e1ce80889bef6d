"""What lies on the disk beside the journal: slices, results, the scan log; free space."""
