"""Finds the animals in a field: how large, how many, which are whole; and the chest of one."""
