"""Other programs' file formats: bytes to and from numpy records. No torch, no physics."""
