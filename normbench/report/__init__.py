"""What a run means: frames, statistics, findings, plots, the table in the terminal and the HTML report."""

from normbench.report.data.frames import Run, load_run
from normbench.report.data.summary import summary
from normbench.report.page.report import write_report
from normbench.report.plots.gallery import write_plots
from normbench.report.terminal.answer import terminal_answer
from normbench.report.terminal.table import terminal_table

__all__ = ["Run", "load_run", "summary", "terminal_answer", "terminal_table", "write_plots", "write_report"]
