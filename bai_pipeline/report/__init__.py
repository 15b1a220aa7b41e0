"""Figures of the training dynamics and the report page; reads tables only."""

from bai_pipeline.report.curves import curve, relative_to_start
from bai_pipeline.report.figures import dynamics_figures
from bai_pipeline.report.report import write_report
from bai_pipeline.report.results import StudyResults
from bai_pipeline.report.summary import summarize

__all__ = ["StudyResults", "curve", "dynamics_figures", "relative_to_start", "summarize", "write_report"]
