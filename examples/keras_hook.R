# The PySyft flow from R, through reticulate: share a Keras model, serve one request to a client in another process, stop.
# Usage: RETICULATE_PYTHON=.venv/bin/python Rscript examples/keras_hook.R
library(reticulate)

keras <- import("keras")
hook <- import("protocols.keras_hook")

kerashook <- hook$KerasHook()
model <- keras$Sequential(list(
  keras$layers$Input(tuple(28L, 28L, 1L)),
  keras$layers$Conv2D(16L, 3L), keras$layers$AveragePooling2D(2L), keras$layers$ReLU(),
  keras$layers$Flatten(), keras$layers$Dense(10L)
))

cluster <- hook$Cluster("localhost:0", "localhost:0", "localhost:0")
cluster$start()
model$share(cluster, name = "mnist")

script <- file.path(dirname(sub("--file=", "", grep("--file=", commandArgs(), value = TRUE))), "client.py")
# LD_LIBRARY_PATH, as R has set it, is for R: a Python may find another libpython there.
system2(py_config()$python, c(script, cluster$addresses, "--images", "0"), env = "LD_LIBRARY_PATH=", wait = FALSE)
model$serve(num_requests = 1L)

model$stop()
cluster$stop()
kerashook$remove()
