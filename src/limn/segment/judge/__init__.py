"""Says how far the contours of a scan may be trusted: signs, predicted quality, lights."""
