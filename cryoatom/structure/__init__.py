"""The molecule: template (residues, chains, atoms), graph (bonds between residues), superposition."""
