"""The networks: a scan in, labels out."""
