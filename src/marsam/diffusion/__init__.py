"""Diffusion models as three independent axes: families (weights and tensors), methods (what trains), objectives (what
is predicted).

Importing this package, `spec`, `registry`, `schedule`, `text`, the objectives, any family's `facts` and any method
file imports no torch.
"""
