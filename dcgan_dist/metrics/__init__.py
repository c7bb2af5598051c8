"""How good and how varied images are, as numbers: functions of two sets of images or of their features."""
