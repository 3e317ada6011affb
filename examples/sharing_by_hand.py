"""Secret sharing by hand: three numbers that mean nothing alone."""

from protocols.sharing import reconstruct, split

shares = split(77777, parties=3)
print("three shares of 77777:", shares)
print("together:", reconstruct(shares))

sums = [a + b for a, b in zip(split(11, 3), split(122, 3), strict=True)]
print("11 + 122, added share by share:", reconstruct(sums))

PRIME = 2**61 - 1
field = split(77777, parties=5, modulus=PRIME)
print("over a prime field, five parties:", reconstruct(field, modulus=PRIME))
