"""Has a scan contoured again with another bundle, by a person's order."""
