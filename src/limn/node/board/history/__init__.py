"""The pages of the history: chosen scans, their times in charts, an animal, pictures."""
