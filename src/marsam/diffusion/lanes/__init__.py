"""Several forwards side by side on a CPU."""
