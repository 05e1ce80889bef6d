"""Commissions a site's own running node: phantoms in, contours out, measured, one report."""
