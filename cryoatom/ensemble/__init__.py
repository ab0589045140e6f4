"""Conformations as an ensemble: motions, clusters, paths, domains, collective variables. Arrays in, arrays out."""
