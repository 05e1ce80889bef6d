"""The room that trains and measures."""
