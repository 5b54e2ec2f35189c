"""Go through the protocol's maintenance lists: what was looked at, what was found, what to do."""

from pgbackup.review.keep import keep
from pgbackup.review.run import review

__all__ = ["keep", "review"]
