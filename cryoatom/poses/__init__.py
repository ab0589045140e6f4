"""Orientations of particles: weights on a grid of rotations and their means."""
