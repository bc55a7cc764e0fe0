"""One job on several kinds of accelerators: uneven shares of the batch, or of the layers."""
