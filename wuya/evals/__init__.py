"""How good is it: win rates, bits per byte, KL, alignment tax, calibration, diversity, and their report."""
