"""From a text that names a source to frames with times; the only room that opens media files."""
