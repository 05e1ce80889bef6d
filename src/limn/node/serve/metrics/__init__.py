"""The page of metrics that Prometheus reads."""
