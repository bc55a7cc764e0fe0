"""Compact corrections of modelled times: fitted on log residuals, applied in compiled code."""

from ridgeline.simulator.roofline.correction.apply import apply_correction, log_correction
from ridgeline.simulator.roofline.correction.solve import fit_correction, fit_grids, spread_nodes

__all__ = ["apply_correction", "fit_correction", "fit_grids", "log_correction", "spread_nodes"]
