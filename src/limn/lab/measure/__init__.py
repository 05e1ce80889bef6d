"""Scores of labels against truth and observers, and their statistics."""
