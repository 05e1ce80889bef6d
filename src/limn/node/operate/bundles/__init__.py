"""Another bundle: how it compares with the one that delivers, and how it takes its place."""
