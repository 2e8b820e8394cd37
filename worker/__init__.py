"""One process, one warm base: claims jobs, swaps adapters, makes images."""
