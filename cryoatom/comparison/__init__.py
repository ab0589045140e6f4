"""Systems trained on the same images and budget, each in a process of its own, and one table of them."""
