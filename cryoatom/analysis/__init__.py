"""A finished run, opened again: what its ensemble shows, how far it can be trusted, and how it goes on elsewhere."""
