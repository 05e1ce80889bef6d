"""The room that makes mice."""
