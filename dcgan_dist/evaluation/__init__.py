"""How good and how varied a generator's images are, during a run and for dcgan-eval."""
