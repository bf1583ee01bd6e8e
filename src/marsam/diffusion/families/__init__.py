"""One folder per model family: `facts.py` says what is true of it without torch, `net.py` holds its tensors. The
folder's name is its key."""
