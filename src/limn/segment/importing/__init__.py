"""Reads trainings of nnU-Net and seals them as bundles."""
