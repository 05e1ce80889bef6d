"""Structure sets that persons corrected."""
