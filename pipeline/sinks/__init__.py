"""Where results go: lines of text, annotated video, a page in the browser."""
