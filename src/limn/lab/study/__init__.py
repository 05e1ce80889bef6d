"""The paper's study, from scans to tables."""
