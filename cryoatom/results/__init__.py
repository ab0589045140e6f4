"""What a run is worth: conformations against a known truth."""
