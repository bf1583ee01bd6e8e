"""`make images-check`: the images for the processor, really built and really run, without Docker and its registry."""
