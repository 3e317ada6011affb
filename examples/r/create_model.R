# First of three scripts: train a model on digits as always, and save its weights.
# Usage: RETICULATE_PYTHON=.venv/bin/python Rscript examples/r/create_model.R [FILE]
library(reticulate)
tf <- import("tensorflow")

weights <- commandArgs(trailingOnly = TRUE)
weights <- if (length(weights)) weights[1] else "digits.weights.h5"
digits <- import("protocols.demonstration")$digits() # 1,500 images (28, 28, 1) from 0 to 1, and their labels

layers <- tf$keras$layers
model <- tf$keras$Sequential(list(
  layers$Input(tuple(28L, 28L, 1L)),
  layers$Conv2D(8L, 5L, strides = 2L), layers$ReLU(),
  layers$Conv2D(16L, 3L), layers$AveragePooling2D(2L), layers$ReLU(),
  layers$Flatten(), layers$Dense(10L)
))
model$compile(
  optimizer = tf$keras$optimizers$Adam(0.005),
  loss = tf$keras$losses$SparseCategoricalCrossentropy(from_logits = TRUE),
  metrics = list("accuracy")
)
model$fit(digits$x_train, digits$y_train, epochs = 6L, verbose = 0L)
cat("accuracy:", model$evaluate(digits$x_test, digits$y_test, verbose = 0L)[[2]], "\n")
model$save_weights(weights)
