"""Folders of series contoured in this process or by a running node."""
