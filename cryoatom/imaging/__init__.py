"""From a conformation to the likelihood of an image: beads, projection, CTF, the direct and the matched model."""
