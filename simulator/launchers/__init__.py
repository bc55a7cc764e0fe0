"""Settings of training and serving programs read as plan files, and written from plans."""
