"""One module per family with `build(folder)`: a tiny base of the real classes, random weights, in diffusers layout."""
