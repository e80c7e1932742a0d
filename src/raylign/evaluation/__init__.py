"""Measuring, showing and reporting registrations."""

from raylign.evaluation.content import Exposure, ReportContent, Truth
from raylign.evaluation.metrics import mpd, mrpd, mtre

__all__ = ["Exposure", "ReportContent", "Truth", "mpd", "mrpd", "mtre"]
