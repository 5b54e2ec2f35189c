"""How a cluster's recovery stands: looked at by the watch, read by people at once."""

from pgbackup.overview.document import Level, Overview, Summary, overview_json, summary_of
from pgbackup.overview.look import look
from pgbackup.overview.read import overview

__all__ = ["Level", "Overview", "Summary", "look", "overview", "overview_json", "summary_of"]
