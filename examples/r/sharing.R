# Secret sharing by hand, from R: numbers that say nothing until all of them are added.
# Usage: RETICULATE_PYTHON=.venv/bin/python Rscript examples/r/sharing.R
library(reticulate)
sharing <- import("protocols.sharing")
sy <- import("protocols.keras_hook")

# A share is no number of R, which has none of 64 bits: it is an object that prints as one.
shares <- sharing$split(77777, 3)
print(shares)
cat("together:", sharing$reconstruct(shares), "\n")

# Each party adds what it has.
cat("11 + 122, added share by share:", sy$decrypt(sy$add(sy$encrypt(11), sy$encrypt(122))), "\n")

# Over a prime field; whole numbers may be doubles, which R has up to 2^53.
Q <- 78090573363827
cat("over a prime field:", format(sy$decrypt(sy$encrypt(Q - 1, Q), Q), digits = 15), "\n")

# Vectors, matrices and arrays.
ages <- c(34, 58, 41)
bonus <- c(1, 0, 2)
cat("vectors:", sy$decrypt(sy$add(sy$encrypt(ages), sy$encrypt(bonus))), "\n")
table <- matrix(c(1, -2, 3, 4, 5, -6), nrow = 2)
print(sy$decrypt(sy$encrypt(table)))
