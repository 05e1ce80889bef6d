"""What persons changed in the contours that came back."""
