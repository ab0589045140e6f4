"""Particles: what is known of each image, and the images themselves."""
