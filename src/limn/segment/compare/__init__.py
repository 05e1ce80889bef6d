"""How far two delineations of one organ are from each other."""
