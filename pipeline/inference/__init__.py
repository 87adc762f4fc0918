"""One frame to one result: what to compute, with which backend, and what stands meanwhile."""
