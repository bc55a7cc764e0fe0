"""Published results of the field, recomputed: one figure of a paper beside ours."""
