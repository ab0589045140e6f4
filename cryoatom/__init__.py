"""cryoatom: one atomic backbone conformation per cryo-EM particle image."""

from importlib.metadata import version

__version__ = version("cryoatom")
