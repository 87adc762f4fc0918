"""The passes of the change gate over a picture, and of the noise meter over some of its rows.

Rows are walked one by one through views, because an index that could be negative is not vectorised.
Numbers are float32 where they are added up: they are whole and small, so that is exact, and NumPy's
rules would widen small integers to 64 bits.
"""

import numpy as np

from stillframe.reuse.kernels.jit import kernel

BLOCK = 16  # pixels a side
PATCH = 2  # pixels on each side of the middle one
ON, OFF = np.uint8(1), np.uint8(0)
ZERO = np.float32(0)


QUANTILE = 0.75
DEVIATIONS = 1.1503  # the QUANTILE of |x| for a standard normal x
ENOUGH = 500.0  # samples that a brightness needs to speak for itself


@kernel
def brightness(red, green, blue):
    """The bin of a pixel, 0 .. 15."""
    return (np.int64(red) + 2 * np.int64(green) + np.int64(blue)) >> 6


@kernel
def tally(image, probe, first, step, decay, histogram):
    # adds the differences of rows first, first + step, … to histogram (BINS, LEVELS); probe (H, W,
    # 3) then holds these rows of image
    for level in range(histogram.shape[0]):
        for difference in range(histogram.shape[1]):
            histogram[level, difference] *= decay
    for y in range(first, image.shape[0], step):
        for x in range(image.shape[1]):
            largest = 0
            for c in range(3):
                gap = abs(np.int64(image[y, x, c]) - np.int64(probe[y, x, c]))
                largest = max(largest, gap)
                probe[y, x, c] = image[y, x, c]
            if largest < histogram.shape[1]:
                level = brightness(image[y, x, 0], image[y, x, 1], image[y, x, 2])
                histogram[level, largest] += 1.0


@kernel
def quantile(counts, share):
    """The value below which `share` of the counts lie, with linear interpolation in its bin."""
    total = counts.sum()
    wanted = share * total
    below = 0.0
    for value in range(counts.shape[0]):
        if below + counts[value] >= wanted and counts[value] > 0:
            return max(0.0, value - 0.5 + (wanted - below) / counts[value])
        below += counts[value]
    return 0.0


@kernel
def deviations(histogram, least, most, sigma):
    """histogram (BINS, LEVELS) -> sigma (BINS,), each within [least, most]; -> that of all."""
    every = quantile(histogram.sum(axis=0), QUANTILE) / DEVIATIONS
    every = min(max(every, least), most)
    for level in range(histogram.shape[0]):
        count = histogram[level].sum()
        own = quantile(histogram[level], QUANTILE) / DEVIATIONS if count > 0 else every
        weight = count / (count + ENOUGH)
        sigma[level] = min(max(own * weight + every * (1.0 - weight), least), most)
    return every


@kernel
def differs(image, reference, mask):
    """mask (H, W) = any channel unequal; -> how many."""
    count = 0
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            unequal = OFF
            for c in range(3):
                unequal |= image[y, x, c] ^ reference[y, x, c]
            mask[y, x] = ON if unequal != OFF else OFF
            count += mask[y, x]
    return count


@kernel
def same(image, reference):
    """Whether all bytes are equal, of two flat arrays."""
    step = 1 << 14
    for start in range(0, image.shape[0], step):
        difference = OFF
        for i in range(start, min(start + step, image.shape[0])):
            difference |= image[i] ^ reference[i]
        if difference != OFF:
            return False
    return True


@kernel
def compare(image, reference, limits, over, signed, strip, blocks):
    """One pass over the picture, given as (H, 3 W).

    over (H, W) = the largest channel difference is beyond limits (H, W); signed (H, W) float32 =
    sum over channels of image - reference; blocks (h, w) float32 = their sums by block. strip (W,)
    is scratch. All numbers are whole and small, so float32, which vectorises best, is exact.
    """
    height, width = over.shape
    for y in range(height):
        new, old, beyond, total, limit = image[y], reference[y], over[y], signed[y], limits[y]
        for x in range(width):
            a = np.float32(new[3 * x]) - np.float32(old[3 * x])
            b = np.float32(new[3 * x + 1]) - np.float32(old[3 * x + 1])
            c = np.float32(new[3 * x + 2]) - np.float32(old[3 * x + 2])
            total[x] = a + b + c
            a, b, c = abs(a), abs(b), abs(c)
            largest = a if a > b else b
            largest = largest if largest > c else c
            beyond[x] = ON if largest > np.float32(limit[x]) else OFF
        if y % BLOCK == 0:
            strip[:] = ZERO
        for x in range(width):
            strip[x] += total[x]
        if y % BLOCK == BLOCK - 1 or y == height - 1:
            row = blocks[y // BLOCK]
            for block in range(row.shape[0]):
                part = ZERO
                for x in range(block * BLOCK, min(block * BLOCK + BLOCK, width)):
                    part += strip[x]
                row[block] = part


@kernel
def patches(signed, limits, scale, seeds, columns):
    """seeds (H, W) = 1 where the sum over a 5x5 patch is beyond limits (H, W) * scale.

    columns (W,) is scratch: sums of five rows.
    """
    height, width = signed.shape
    columns[:] = ZERO
    for y in range(min(PATCH, height)):
        row = signed[y]
        for x in range(width):
            columns[x] += row[x]
    for y in range(height):
        if y + PATCH < height:
            entering = signed[y + PATCH]
            for x in range(width):
                columns[x] += entering[x]
        if y > PATCH:
            leaving = signed[y - PATCH - 1]
            for x in range(width):
                columns[x] -= leaving[x]
        seeds[y, :] = OFF
        found, limit = seeds[y, PATCH:], limits[y, PATCH:]
        # views, because an index that could be negative is not vectorised
        a, b, c, d, e = columns, columns[1:], columns[2:], columns[3:], columns[4:]
        for x in range(width - 2 * PATCH):
            total = abs(a[x] + b[x] + c[x] + d[x] + e[x])
            found[x] = ON if total > np.float32(limit[x]) * scale else OFF


@kernel
def merge_opened(over, seeds, line):
    """seeds (H, W) |= 1 where all 3x3 of over are; line (W,) is scratch."""
    height, width = over.shape
    for y in range(1, height - 1):
        for x in range(width):
            line[x] = over[y - 1, x] & over[y, x] & over[y + 1, x]
        row, left, middle, right = seeds[y, 1:], line, line[1:], line[2:]
        for x in range(width - 2):
            row[x] |= left[x] & middle[x] & right[x]


@kernel
def trip_blocks(blocks, height, width, limit, sweep, seeds):
    """seeds |= 1 in blocks whose mean is beyond the limit; where more than `sweep` of them are, in
    all whose mean is beyond half of it, so that a change of exposure comes in one frame."""
    tripped = 0
    for turn in range(2):
        for by in range(blocks.shape[0]):
            for bx in range(blocks.shape[1]):
                bottom, right = min(by * BLOCK + BLOCK, height), min(bx * BLOCK + BLOCK, width)
                size = (bottom - by * BLOCK) * (right - bx * BLOCK) * 3
                if abs(blocks[by, bx]) > limit * size:
                    tripped += 1
                    for y in range(by * BLOCK, bottom):
                        for x in range(bx * BLOCK, right):
                            seeds[y, x] = ON
        if turn == 1 or tripped <= sweep * blocks.shape[0] * blocks.shape[1]:
            return tripped
        limit *= 0.5
    return tripped


@kernel
def grow(seeds, margin, spread, live, mask):
    """mask (H, W) = seeds dilated by a square of `margin` pixels on each side; -> how many.

    spread (H, W) and live (H,) are scratch. Rows without seeds are passed over.
    """
    height, width = seeds.shape
    found = 0
    for y in range(height):
        any_on = OFF
        for x in range(width):
            any_on |= seeds[y, x]
            spread[y, x] = seeds[y, x]
        live[y] = any_on
        if any_on == OFF:
            continue
        found += 1
        for shift in range(1, min(margin, width - 1) + 1):
            before, behind = spread[y], spread[y, shift:]
            ahead, source = seeds[y, shift:], seeds[y]
            for x in range(width - shift):
                before[x] |= ahead[x]
            for x in range(width - shift):
                behind[x] |= source[x]
    mask[:, :] = OFF
    if found == 0:
        return 0
    count = 0
    for y in range(height):
        row = mask[y]
        for other in range(max(y - margin, 0), min(y + margin + 1, height)):
            if live[other] != OFF:
                near = spread[other]
                for x in range(width):
                    row[x] |= near[x]
        total = np.int32(0)
        for x in range(width):
            total += np.int32(row[x])
        count += total
    return count


@kernel
def take_over(image, mask, reference, bins):
    """reference (H, W, 3) = image where mask; bins (H, W) = the brightness there."""
    for y in range(mask.shape[0]):
        row = mask[y]
        any_on = OFF
        for x in range(row.shape[0]):
            any_on |= row[x]
        if any_on == OFF:
            continue
        for x in range(row.shape[0]):
            if row[x] != OFF:
                for c in range(3):
                    reference[y, x, c] = image[y, x, c]
                bins[y, x] = brightness(image[y, x, 0], image[y, x, 1], image[y, x, 2])


@kernel
def settle(mask, frames, thresholds, everywhere, bins, held, limits):
    """Count down held (H, W), the frames for which the lower threshold applies, and write limits
    (H, W) = thresholds[held, brightness], in the rows where something can have changed."""
    for y in range(mask.shape[0]):
        row, hold = mask[y], held[y]
        busy = OFF
        for x in range(row.shape[0]):
            busy |= row[x] | hold[x]
        if busy == OFF and not everywhere:
            continue
        for x in range(row.shape[0]):
            if row[x] != OFF:
                hold[x] = frames
            elif hold[x] != OFF:
                hold[x] -= ON
            limits[y, x] = thresholds[1 if hold[x] != OFF else 0, bins[y, x]]
