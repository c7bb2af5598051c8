"""What dcgan-sweep does: a sweep file, its points, training those that are left, and what they found."""
