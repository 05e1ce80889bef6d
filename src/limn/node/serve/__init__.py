"""The processes of this host, each composed from the rooms below."""
