"""All that knows ranks: collectives, synchronized batch statistics, random numbers by row, the runtime."""
