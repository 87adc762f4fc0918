"""The pass of the noise meter over a few rows of a picture."""

import numpy as np

from stillframe.reuse.kernels.jit import kernel

BINS = 16  # of brightness
LEVELS = 64  # differences 0 .. 63
STRETCH = 16  # pixels of a row
MOTION = 8.0  # a stretch whose mean moved by more is no noise, and neither are its neighbours
QUANTILE = 0.9
DEVIATIONS = 1.6449  # the QUANTILE of |x| for a standard normal x
ENOUGH = 500.0  # samples that a brightness needs to speak for itself
SHRINK = 0.75  # of the noise at large: no brightness is taken to be calmer than that


@kernel
def tally(image, probe, first, spacing, step, decay, means, histogram):
    """Add the differences of some rows to histogram (BINS, LEVELS) after it decayed.

    image (H, 3 W): its rows first, first + step, … are compared with rows y // spacing of probe,
    which then hold them. means (ceil(W / STRETCH) + 2,) float32 is scratch.
    """
    for level in range(histogram.shape[0]):
        for size in range(histogram.shape[1]):
            histogram[level, size] *= decay
    width = image.shape[1] // 3
    means[:] = np.float32(0)
    for y in range(first, image.shape[0], step):
        new, old = image[y], probe[y // spacing]
        calm = 0
        for part in range(means.shape[0] - 2):
            start, end = 3 * STRETCH * part, min(3 * STRETCH * (part + 1), 3 * width)
            total = 0
            for i in range(start, end):
                total += np.int64(new[i]) - np.int64(old[i])
            means[part + 1] = np.float32(total) / np.float32(end - start)
            calm += abs(means[part + 1]) <= MOTION
        if 2 * calm >= means.shape[0] - 2:
            for part in range(means.shape[0] - 2):
                near = max(abs(means[part]), abs(means[part + 1]))
                if max(near, abs(means[part + 2])) <= MOTION:
                    light = np.int64(np.rint(means[part + 1]))
                    start, end = STRETCH * part, min(STRETCH * (part + 1), width)
                    add(new[3 * start : 3 * end], old[3 * start : 3 * end], light, histogram)
        old[:] = new


@kernel
def add(new, old, light, histogram):
    # the largest channel differences of two rows, less a change of light
    for x in range(new.shape[0] // 3):
        red, green, blue = np.int64(old[3 * x]), np.int64(old[3 * x + 1]), np.int64(old[3 * x + 2])
        r = abs(np.int64(new[3 * x]) - red - light)
        g = abs(np.int64(new[3 * x + 1]) - green - light)
        b = abs(np.int64(new[3 * x + 2]) - blue - light)
        level = (red + 2 * green + blue) >> 6
        histogram[level, min(max(max(r, g), b), LEVELS - 1)] += 1.0


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
def deviations(histogram, every, least, most, sigma):
    """histogram (BINS, LEVELS) -> sigma (BINS,), within [least, most]; -> that of the picture.

    every (LEVELS,) is scratch.
    """
    for size in range(histogram.shape[1]):
        every[size] = histogram[:, size].sum()
    pooled = quantile(every, every.sum()) / DEVIATIONS
    overall = min(max(pooled, least), most)
    for level in range(histogram.shape[0]):
        count = histogram[level].sum()
        own = quantile(histogram[level], count) / DEVIATIONS
        shared = (own * count + overall * ENOUGH) / (count + ENOUGH)
        sigma[level] = min(max(shared, max(least, SHRINK * overall)), most)
    return overall
