"""Low-rank adapters, shared by the methods that train them and the generator that applies them."""
