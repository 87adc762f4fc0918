"""Frame rate against quality on one clip, as a table and a report."""
