"""Phantom mice: anatomy, scanner, cohorts and observers."""
