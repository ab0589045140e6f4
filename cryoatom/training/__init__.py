"""Fit latents, decoder and beads to the images: model, latents, regularisers, objective, the loop."""
