# Second of three scripts, on the side of the model's owner: share it among three workers, and serve three requests.
# Usage, after create_model.R: RETICULATE_PYTHON=.venv/bin/python Rscript examples/r/serve.R [FILE [PORT PORT PORT]]
library(reticulate)
tf <- import("tensorflow")
sy <- import("protocols.keras_hook")
hook <- sy$KerasHook(tf$keras)

arguments <- commandArgs(trailingOnly = TRUE)
weights <- if (length(arguments)) arguments[1] else "digits.weights.h5"
ports <- if (length(arguments) == 4) arguments[2:4] else c(4000, 4001, 4002)

layers <- tf$keras$layers
model <- tf$keras$Sequential(list(
  layers$Input(tuple(28L, 28L, 1L)),
  layers$Conv2D(8L, 5L, strides = 2L), layers$ReLU(),
  layers$Conv2D(16L, 3L), layers$AveragePooling2D(2L), layers$ReLU(),
  layers$Flatten(), layers$Dense(10L)
))
model$load_weights(weights)

# Three workers on this machine. Whoever runs them must not be the same in earnest: see docs/several-machines.md, and
# sy$Cluster$from_file("cluster.toml", keys = "keys", name = "NODE") for workers on three machines, over TLS.
julia <- sy$TFEWorker(host = paste0("localhost:", ports[1]), auto_managed = TRUE)
greg <- sy$TFEWorker(host = paste0("localhost:", ports[2]), auto_managed = TRUE)
me <- sy$TFEWorker(host = paste0("localhost:", ports[3]), auto_managed = TRUE)
cluster <- sy$TFECluster(julia, greg, me)
cluster$start()

model$share(cluster)
cat("serving\n")
model$serve(num_requests = 3)
model$stop()
cluster$stop()
hook$remove()
