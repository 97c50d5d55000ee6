"""What a run means: frames, statistics, findings, plots, the table in the terminal and the HTML report."""

from analysis.report.frames import Run, load_run
from analysis.report.gallery import write_plots
from analysis.report.html import write_report
from analysis.report.summary import summary
from analysis.report.terminal import terminal_table

__all__ = ["Run", "load_run", "summary", "terminal_table", "write_plots", "write_report"]
