# Third of three scripts, on the side of a client: ask the shared model, which nobody sees, about images, which nobody sees either.
# Usage, while serve.R serves: RETICULATE_PYTHON=.venv/bin/python Rscript examples/r/client.R [PORT PORT PORT]
library(reticulate)
sy <- import("protocols.keras_hook")

ports <- commandArgs(trailingOnly = TRUE)
if (length(ports) != 3) ports <- c(4000, 4001, 4002)
digits <- import("protocols.demonstration")$digits()

workers <- lapply(ports, function(port) sy$TFEWorker(host = paste0("localhost:", port), auto_managed = TRUE))
cluster <- do.call(sy$TFECluster, workers)

# The shapes are compared with those of the model: batches of any size are possible, other images are not.
client <- sy$TFEWorker()
client$connect_to_model(c(1, 28, 28, 1), c(1, 10), cluster)
for (i in 1:3) {
  scores <- client$query_model(digits$x_test[i, , , , drop = FALSE])
  cat("Actual:", digits$y_test[i], "predicted:", which.max(scores) - 1, "\n")
}
client$close()
