"""Work: scans to the workers and back."""
