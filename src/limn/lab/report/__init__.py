"""Tables and figures made from scores."""
