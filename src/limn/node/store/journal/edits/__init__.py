"""The journal's part on structure sets that came back: which scan each is of, what was changed."""
