"""Which pixels of a frame changed: pictures in, change maps out."""
