"""The attempts of the battery, by theme: see `..attack`, which runs and judges them."""
