"""The pass of the noise meter over a few rows of a picture."""

import numpy as np

from stillframe.reuse.kernels.jit import kernel

BINS = 16  # of brightness
LEVELS = 64  # differences 0 .. 63
MOTION = 24  # a difference beyond this is no noise, and neither are its neighbours in the row
REACH = 8  # pixels of the row on each side of it
QUANTILE = 0.9
DEVIATIONS = 1.6449  # the QUANTILE of |x| for a standard normal x
ENOUGH = 500.0  # samples that a brightness needs to speak for itself
SHRINK = 0.75  # of the noise at large: no brightness is taken to be calmer than that


@kernel
def tally(image, probe, first, spacing, step, decay, far, histogram):
    """Add the differences of some rows to histogram (BINS, LEVELS) after it decayed.

    image (H, 3 W): its rows first, first + step, … are compared with rows y // spacing of probe,
    which then hold them. far (W,) is scratch. The mean of what is left of a row is taken off, so
    that a change of light is no noise; a row that moves for more than half of it is left out.
    """
    width = far.shape[0]
    histogram *= decay
    for y in range(first, image.shape[0], step):
        new, old = image[y], probe[y // spacing]
        far[:] = 0
        calm, means = width, np.zeros(3)
        last = -REACH - 1
        for x in range(width):  # to the right of motion
            if gap(new, old, x, 0.0, 0.0, 0.0) > MOTION:
                last = x
            far[x] = x - last <= REACH
        last = width + REACH
        for x in range(width - 1, -1, -1):  # and to its left
            if gap(new, old, x, 0.0, 0.0, 0.0) > MOTION:
                last = x
            if last - x <= REACH:
                far[x] = 1
            calm -= far[x]
            if far[x] == 0:
                for c in range(3):
                    means[c] += np.float64(new[3 * x + c]) - np.float64(old[3 * x + c])
        if 2 * calm >= width:
            r, g, b = np.rint(means[0] / calm), np.rint(means[1] / calm), np.rint(means[2] / calm)
            for x in range(width):
                if far[x] == 0:
                    red, green, blue = old[3 * x], old[3 * x + 1], old[3 * x + 2]
                    level = (np.int64(red) + 2 * np.int64(green) + np.int64(blue)) >> 6
                    size = np.int64(gap(new, old, x, r, g, b))
                    histogram[level, min(size, LEVELS - 1)] += 1.0
        old[:] = new


@kernel
def gap(new, old, x, r, g, b):
    """The largest channel difference of pixel x, less a mean for each channel."""
    red = abs(np.float64(new[3 * x]) - np.float64(old[3 * x]) - r)
    green = abs(np.float64(new[3 * x + 1]) - np.float64(old[3 * x + 1]) - g)
    blue = abs(np.float64(new[3 * x + 2]) - np.float64(old[3 * x + 2]) - b)
    return max(max(red, green), blue)


@kernel
def quantile(counts, total):
    """The value below which QUANTILE of the counts lie, with linear interpolation in its bin."""
    wanted = QUANTILE * total
    below = 0.0
    for value in range(counts.shape[0]):
        if counts[value] > 0.0 and below + counts[value] >= wanted:
            return max(0.0, value - 0.5 + (wanted - below) / counts[value])
        below += counts[value]
    return 0.0


@kernel
def deviations(histogram, least, most, sigma):
    """histogram (BINS, LEVELS) -> sigma (BINS,), within [least, most]; -> that of the picture."""
    every = np.zeros(histogram.shape[1])
    for level in range(histogram.shape[0]):
        every += histogram[level]
    pooled = quantile(every, every.sum()) / DEVIATIONS
    overall = min(max(pooled, least), most)
    for level in range(histogram.shape[0]):
        count = histogram[level].sum()
        own = quantile(histogram[level], count) / DEVIATIONS
        shared = (own * count + overall * ENOUGH) / (count + ENOUGH)
        sigma[level] = min(max(shared, max(least, SHRINK * overall)), most)
    return overall
