"""Layers of the graph network: one file each, and one line in catalog.py.

That line names a function (scaffold, channels, count) -> layers, where a count of None is the layer's own default. What
the layers need to know of the graph they share, so that it is stored once.
"""
