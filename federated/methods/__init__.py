"""Ways in which an owner trains that are more than `fit`: what each does with the weights, and with what it remembers."""
