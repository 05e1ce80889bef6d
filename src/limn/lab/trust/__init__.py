"""Teaches and tries judges by scans that were spoilt on purpose."""
