"""Images of other formats in a watched folder: each becomes a CT series, which is taken as sent."""
