"""Stretching a map of what is near over a tensor: which limit applies to each position."""

import numpy as np

from stillframe.reuse.kernels.abi import FAR_BIT
from stillframe.reuse.kernels.jit import entry

NEAR, FAR = np.uint8(0), np.uint8(FAR_BIT)


@entry("void(uint8[:,::1], uint8[:,::1])")
def stretch(near, far):
    """far (h, w) = FAR_BIT where no cell of near (H, W) that the position overlaps is set."""
    height, width = far.shape
    rows, columns = near.shape
    before, until = -1, -1
    for y in range(height):
        top = y * rows // height
        bottom = ((y + 1) * rows + height - 1) // height
        row = far[y]
        if top == before and bottom == until:  # the same cells as in the row above
            above = far[y - 1]
            for x in range(width):
                row[x] = above[x]
            continue
        before, until = top, bottom
        for x in range(width):
            left = x * columns // width
            right = ((x + 1) * columns + width - 1) // width
            any_near = NEAR
            for cell_y in range(top, bottom):
                for cell_x in range(left, right):
                    any_near |= near[cell_y, cell_x]
            row[x] = FAR if any_near == NEAR else NEAR
