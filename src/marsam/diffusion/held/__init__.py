"""How the Linear weights of a frozen base are held: as they are, in 4 bits or in 8."""
