"""Isolated processes, the times of scans, and a lock for a folder."""
