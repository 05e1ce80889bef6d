"""The watched folder: files that appear in it are taken as instances."""
