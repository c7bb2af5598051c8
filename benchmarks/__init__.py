"""What training and converting cost, measured: each file says how to run it; results.md has the numbers."""
