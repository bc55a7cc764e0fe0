"""Seconds of operators on one accelerator: the roofline step. Formulas: ``docs/roofline.md``."""
