"""Bundles for people: listed, verified, installed, packed, imported."""
