"""What runs have found: read from their own files, beside each other, and averaged over the seeds of a sweep."""
