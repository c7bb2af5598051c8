"""What dcgan-doctor does: what it measures, the steps it compares, and what it makes of them."""
