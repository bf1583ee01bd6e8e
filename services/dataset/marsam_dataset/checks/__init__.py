"""What is wrong with a set before it is trained on: one file per check. Checks flag; the selection of a version
drops.
"""
