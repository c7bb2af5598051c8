"""From original image archives to batches: transforms, sources, shards, order, loader."""
