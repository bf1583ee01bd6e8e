"""Loading the parts of a base, shared by the families."""
