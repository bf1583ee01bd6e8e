"""The object store: everything that services share, behind one small interface."""
