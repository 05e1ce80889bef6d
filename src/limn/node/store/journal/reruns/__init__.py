"""Scans that were contoured again with another bundle, in the journal."""
