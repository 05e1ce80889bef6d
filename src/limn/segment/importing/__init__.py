"""Trainings of nnU-Net read and sealed as bundles."""
