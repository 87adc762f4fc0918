"""The pass of the noise meter over a few rows of a picture."""

import numpy as np

from stillframe.reuse.kernels.jit import entry, kernel

BINS = 16  # of brightness
LEVELS = 64  # differences 0 .. 63
STRETCH = 16  # consecutive pixels of a row that are judged together
MOTION = 8.0  # mean difference beyond which a stretch and its neighbours are motion, not noise
MOVED = 1000.0  # stands for the mean of a stretch whose texture moved
QUANTILE = 0.9
DEVIATIONS = 1.6449  # the QUANTILE of |x| for a standard normal x
ENOUGH = 500.0  # samples at which a brightness counts as much as the whole picture
SHRINK = 0.75  # least noise of any brightness, as a share of the whole picture's


@entry(
    "void(uint8[:,::1], uint8[:,::1], int64, int64, int64, float64, float64[::1], float64[:,::1])"
)
def tally(image, probe, first, spacing, step, decay, means, histogram):
    """Add the differences of some rows to histogram (BINS, LEVELS) after it decayed.

    image (H, 3 W): its rows first, first + step, … are compared with rows y // spacing of probe,
    which then hold them. means (ceil(W / STRETCH) + 2,) float64 is scratch.
    """
    for level in range(histogram.shape[0]):
        for size in range(histogram.shape[1]):
            histogram[level, size] *= decay
    width, stretches = image.shape[1] // 3, means.shape[0] - 2
    for y in range(first, image.shape[0], step):
        new, old = image[y], probe[y // spacing]
        calm = 0
        for part in range(stretches):
            start, end = STRETCH * part, min(STRETCH * (part + 1), width)
            means[part + 1] = mean_if_noise(new, old, start, end)
            if abs(means[part + 1]) <= MOTION:
                calm += 1
        if 2 * calm >= stretches:
            for part in range(stretches):
                near = max(abs(means[part]), abs(means[part + 1]))
                if max(near, abs(means[part + 2])) <= MOTION:
                    light = np.int64(np.floor(means[part + 1] + 0.5))
                    start, end = STRETCH * part, min(STRETCH * (part + 1), width)
                    add(new, old, start, end, light, histogram)
        for i in range(3 * width):
            old[i] = new[i]


@kernel
def mean_if_noise(new, old, start, end):
    # mean difference of some pixels of two rows, or MOVED where neighbours differ alike: in noise
    # the squared steps from pixel to pixel sum to twice the squared differences
    total, squares, steps, before = 0, 0, 0, 0
    for x in range(start, end):
        difference = -np.int64(old[3 * x]) - np.int64(old[3 * x + 1]) - np.int64(old[3 * x + 2])
        difference += np.int64(new[3 * x]) + np.int64(new[3 * x + 1]) + np.int64(new[3 * x + 2])
        total += difference
        squares += difference * difference
        if x > start:
            steps += (difference - before) * (difference - before)
        before = difference
    if steps * (end - start) < squares * (end - start) - total * total:
        return MOVED
    return total / (3.0 * (end - start))


@kernel
def add(new, old, start, end, light, histogram):
    # count the largest channel differences of some pixels of two rows, less a change of light
    for x in range(start, end):
        red, green, blue = np.int64(old[3 * x]), np.int64(old[3 * x + 1]), np.int64(old[3 * x + 2])
        r = abs(np.int64(new[3 * x]) - red - light)
        g = abs(np.int64(new[3 * x + 1]) - green - light)
        b = abs(np.int64(new[3 * x + 2]) - blue - light)
        level = (red + 2 * green + blue) >> 6
        histogram[level, min(max(max(r, g), b), LEVELS - 1)] += 1.0


@kernel
def quantile(counts):
    """(value below which QUANTILE of the counts lie, interpolated; sum of the counts)."""
    total, below = 0.0, 0.0
    for value in range(counts.shape[0]):
        total += counts[value]
    for value in range(counts.shape[0]):
        if counts[value] > 0.0 and below + counts[value] >= QUANTILE * total:
            return max(0.0, value - 0.5 + (QUANTILE * total - below) / counts[value]), total
        below += counts[value]
    return 0.0, total


@entry("float64(float64[:,::1], float64[::1], float64, float64, float64[::1])")
def deviations(histogram, every, least, most, sigma):
    """histogram (BINS, LEVELS) -> sigma (BINS,), within [least, most]; -> that of all brightnesses.

    every (LEVELS,) is scratch.
    """
    for size in range(histogram.shape[1]):
        every[size] = 0.0
        for level in range(histogram.shape[0]):
            every[size] += histogram[level, size]
    pooled, _ = quantile(every)
    overall = min(max(pooled / DEVIATIONS, least), most)
    for level in range(histogram.shape[0]):
        own, count = quantile(histogram[level])
        shared = (own / DEVIATIONS * count + overall * ENOUGH) / (count + ENOUGH)
        sigma[level] = min(max(shared, max(least, SHRINK * overall)), most)
    return overall
