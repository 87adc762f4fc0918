"""The passes of the change gate over a picture.

Written so that the compiler vectorises: rows, and shifts along a row, are views, because an index
that could be negative is not vectorised; every loop writes one or two arrays, so that an overlap
can be ruled out; and each step casts to the narrowest type, because NumPy's rules would widen to 64
bits. A row that equals the reference is skipped.
"""

import numpy as np

from stillframe.reuse.kernels.jit import entry, kernel

BLOCK = 16  # pixels a side
PATCH = 2  # pixels of a patch on each side of its middle
SIDE = 2 * PATCH + 1  # pixels of a patch
REACH = 3 * PATCH  # bytes of a row on each side of a patch's middle
PATCH_SHARE = 16 / SIDE**2  # limit of a patch's mean, as a share of a pixel's; see `patch`
ON, OFF = np.uint8(1), np.uint8(0)
STRONG = np.uint8(3)  # of a seed: ON, and softens the limits of the frames that follow

I16, U8 = np.int16, np.uint8


@entry("boolean(uint8[::1], uint8[::1])")
def same(one, other):
    """Whether all bytes of two flat arrays are equal."""
    step = 1 << 9
    for start in range(0, one.shape[0], step):
        end = min(start + step, one.shape[0])
        a, b = one[start:end], other[start:end]
        difference = OFF
        for i in range(a.shape[0]):
            difference |= a[i] ^ b[i]
        if difference != OFF:
            return False
    return True


@entry("int64(uint8[:,::1], uint8[:,::1], uint8[:,::1], uint8[::1])")
def differs(image, reference, mask, touched):
    """mask (H, W) = any channel of (H, 3 W) unequal; touched (H,) = any of the row; -> pixels."""
    count = 0
    for y in range(mask.shape[0]):
        new, old, row = image[y], reference[y], mask[y]
        total = np.int32(0)
        for x in range(row.shape[0]):
            unequal = new[3 * x] ^ old[3 * x]
            unequal |= new[3 * x + 1] ^ old[3 * x + 1]
            unequal |= new[3 * x + 2] ^ old[3 * x + 2]
            row[x] = ON if unequal != OFF else OFF
            total += np.int32(row[x])
        touched[y] = ON if total > 0 else OFF
        count += total
    return count


@kernel
def enter(new, old, signed, columns):
    # columns += new - old, less what this row of the history had before
    for i in range(signed.shape[0]):
        difference = I16(I16(new[i]) - I16(old[i]))
        columns[i] = I16(columns[i] + I16(difference - signed[i]))
        signed[i] = difference


@kernel
def leave(signed, columns):
    for i in range(signed.shape[0]):
        columns[i] = I16(columns[i] - signed[i])
        signed[i] = I16(0)


@kernel
def add(signed, strip):
    for i in range(signed.shape[0]):
        strip[i] = I16(strip[i] + signed[i])


@kernel
def magnitude(new, old, sizes):
    for i in range(sizes.shape[0]):
        a, b = new[i], old[i]
        sizes[i] = U8(max(a, b) - min(a, b))


@kernel
def patch(a, b, c, d, e, sizes):
    # sizes = |a + b + c + d + e| / 16, rounded up: beyond a limit L exactly where the sum over the
    # 25 pixels is beyond 16 L. The byte saturates, which a limit cannot exceed.
    for i in range(sizes.shape[0]):
        total = I16(I16(I16(I16(a[i] + b[i]) + c[i]) + d[i]) + e[i])
        size = I16(max(total, I16(-total)))
        size = I16(I16(size + I16(15)) >> I16(4))
        sizes[i] = U8(min(size, I16(255)))


@kernel
def beyond(sizes, limits, over):
    # over (W,) = STRONG where the largest of three channels is beyond the limit
    for x in range(over.shape[0]):
        largest = max(max(sizes[3 * x], sizes[3 * x + 1]), sizes[3 * x + 2])
        over[x] = STRONG if largest > limits[x] else OFF


@kernel
def beyond_softly(sizes, limits, soft_frames, softness, over):
    # as beyond, and ON where soft_frames > 0 and it is beyond softness / 256 of the limit
    for x in range(over.shape[0]):
        largest = max(max(sizes[3 * x], sizes[3 * x + 1]), sizes[3 * x + 2])
        soft = U8((np.uint16(limits[x]) * softness) >> np.uint16(8))
        strong = STRONG if largest > limits[x] else OFF
        weak = ON if largest > soft else OFF
        over[x] = strong | (weak if soft_frames[x] != OFF else OFF)


@kernel
def squeeze(over, eroded):
    # eroded[x] = all of over[x - 1 .. x + 1]; the ends stay as they are; -> any
    left, middle, right, inner = over, over[1:], over[2:], eroded[1:]
    any_whole = OFF
    for x in range(over.shape[0] - 2):
        whole = left[x] & middle[x] & right[x]
        inner[x] = whole
        any_whole |= whole
    return any_whole


@kernel
def join(above, here, below, row):
    for x in range(row.shape[0]):
        row[x] |= above[x] & here[x] & below[x]


@kernel
def clear(row):
    for x in range(row.shape[0]):
        row[x] = 0


@kernel
def any_on(row):
    joined = OFF
    for x in range(row.shape[0]):
        joined |= row[x]
    return joined


@entry(
    "void(uint8[:,::1], uint8[:,::1], uint8[:,::1], uint8[:,::1], uint8[::1], int64, "
    "uint8[:,::1], uint8[::1], int32[:,::1], int16[::1], int16[:,::1], int16[::1], uint8[::1], "
    "uint8[::1], uint8[:,::1])"
)
def find(
    image, reference, limits, soft_frames, soft_rows, softness,
    seeds, sown, totals, columns, history, strip, sizes, over, eroded,
):  # fmt: skip
    """One pass over image and reference (H, 3 W) that finds the seeds of change by patch and pixel.

    limits (H, W): of the largest channel difference. soft_frames (H, W), soft_rows (H,): the softer
    limit applies where they are not 0. seeds (H, W), sown (H,): 0, ON or STRONG, and in which rows;
    the other rows of seeds are not written. totals (h, w) int32: sums of differences by block. The
    rest is scratch: columns (3 W + 4 PATCH * 3) and strip (3 W) int16, history (SIDE, 3 W) int16,
    sizes (3 W), over (W) and eroded (4, W) uint8.
    """
    height, width = limits.shape
    clear(columns)
    clear(strip)
    for line in range(SIDE):
        clear(history[line])
    middle = columns[REACH : REACH + 3 * width]
    a, b, c, d, e = columns, columns[3:], columns[6:], columns[9:], columns[12:]  # SIDE pixels
    moved = 0  # bit k: row y - k differs from the reference
    thick = 0  # bit k: row y - k has pixels beyond their limits, three in a row
    for y in range(height + PATCH):
        signed = history[y % SIDE]
        leaving = moved >> (SIDE - 1)
        moved = (moved << 1) & ((1 << SIDE) - 1)
        thick = (thick << 1) & 15
        if y < height and not same(image[y], reference[y]):
            moved |= 1
            enter(image[y], reference[y], signed, middle)
            add(signed, strip)
            magnitude(image[y], reference[y], sizes)
            beyond(sizes, limits[y], over)
            thick |= squeeze(over, eroded[y % 4]) & 1
        elif leaving:
            leave(signed, middle)
        if y < height and (y % BLOCK == BLOCK - 1 or y == height - 1):
            gather(strip, totals[y // BLOCK])
        centre = y - PATCH
        if centre < 0:
            continue
        sown[centre] = OFF
        if moved:
            row = seeds[centre]
            patch(a, b, c, d, e, sizes)
            if soft_rows[centre] != OFF:
                beyond_softly(sizes, limits[centre], soft_frames[centre], np.uint16(softness), row)
            else:
                beyond(sizes, limits[centre], row)
            if (thick & 14) == 14:
                join(eroded[(y - 3) % 4], eroded[(y - 2) % 4], eroded[(y - 1) % 4], row)
            sown[centre] = ON if any_on(row) != OFF else OFF


@kernel
def gather(strip, totals):
    # totals (w,) = sums of strip (3 W,) by block; strip is cleared
    for block in range(totals.shape[0]):
        part = strip[block * 3 * BLOCK : (block + 1) * 3 * BLOCK]
        total = np.int32(0)
        for i in range(part.shape[0]):
            total += np.int32(part[i])
        totals[block] = total
    clear(strip)


@kernel
def has_seed(seeds, sown, top, bottom, left, right):
    seed = OFF
    for y in range(top, bottom):
        if sown[y] != OFF:
            seed |= any_on(seeds[y, left:right])
    return seed != OFF


@entry("boolean(int32[:,::1], float64, float64, uint8[:,::1], uint8[::1])")
def drift(totals, limit, sweep, seeds, sown):
    """Seed the blocks whose mean difference is beyond the limit; -> whether the light changed.

    It did where a block without other seeds is beyond the limit, and more than `sweep` of all
    blocks are beyond half of it, all brighter or all darker. Half the limit then applies to all
    blocks, so that they are renewed in the same frame and drift together from then on.
    """
    height, width = seeds.shape
    alone, brighter, darker = 0, 0, 0
    for block_y in range(totals.shape[0]):
        top, bottom = block_y * BLOCK, min(block_y * BLOCK + BLOCK, height)
        for block_x in range(totals.shape[1]):
            left, right = block_x * BLOCK, min(block_x * BLOCK + BLOCK, width)
            total, most = totals[block_y, block_x], limit * (3 * (bottom - top) * (right - left))
            brighter += total > 0.5 * most
            darker += total < -0.5 * most
            if abs(total) > most and not has_seed(seeds, sown, top, bottom, left, right):
                alone += 1
    light = alone > 0 and max(brighter, darker) > sweep * totals.size
    if light:
        limit *= 0.5
    for block_y in range(totals.shape[0]):
        top, bottom = block_y * BLOCK, min(block_y * BLOCK + BLOCK, height)
        for block_x in range(totals.shape[1]):
            left, right = block_x * BLOCK, min(block_x * BLOCK + BLOCK, width)
            if abs(totals[block_y, block_x]) > limit * (3 * (bottom - top) * (right - left)):
                for y in range(top, bottom):
                    if sown[y] == OFF:
                        clear(seeds[y])
                        sown[y] = ON
                    for x in range(left, right):
                        seeds[y, x] |= ON
    return light


@kernel
def widen(row, margin, one, other):
    # row (W,) = any of row within margin on each side; one, other (W + 2 margin,) are scratch
    width, window, reach = row.shape[0], 2 * margin + 1, 1
    clear(one)
    inner = one[margin:]
    for x in range(width):
        inner[x] = row[x]
    while 2 * reach <= window:
        ahead = one[reach:]
        for i in range(ahead.shape[0]):
            other[i] = one[i] | ahead[i]
        one, other = other, one
        reach *= 2
    ahead = one[window - reach :]
    for x in range(width):
        row[x] = one[x] | ahead[x]


@entry(
    "int64(uint8[:,::1], uint8[::1], int64, int64, uint8[:,::1], uint8[::1], uint8[:,::1], "
    "uint8[::1], uint8[::1], uint8[::1], uint8[::1])"
)
def grow(seeds, sown, margin, frames, mask, touched, soft_frames, soft_rows, one, other, near):
    """mask (H, W) = seeds grown by a square of `margin` pixels to each side; -> pixels.

    touched (H,): rows with any. soft_frames (H, W) = `frames` where STRONG seeds grew, else one
    less than before; soft_rows (H,): rows with any of them above 0. near (W,) and one, other
    (W + 2 margin,) are scratch.
    """
    height, width = mask.shape
    for y in range(height):
        if sown[y] != OFF:
            widen(seeds[y], margin, one, other)
    count = 0
    for y in range(height):
        row = mask[y]
        any_near = OFF
        for other_y in range(max(y - margin, 0), min(y + margin + 1, height)):
            if sown[other_y] != OFF:
                if any_near == OFF:
                    clear(near)
                    any_near = ON
                source = seeds[other_y]
                for x in range(width):
                    near[x] |= source[x]
        touched[y] = any_near
        if any_near == OFF:
            clear(row)
            if soft_rows[y] != OFF:
                soft_rows[y] = ON if cool(soft_frames[y]) != OFF else OFF
            continue
        total = np.int32(0)
        for x in range(width):
            row[x] = near[x] & ON
            total += np.int32(near[x] & ON)
        count += total
        soft_rows[y] = ON if warm(near, U8(frames), soft_frames[y]) != OFF else OFF
    return count


@kernel
def cool(soft_frames):
    left = OFF
    for x in range(soft_frames.shape[0]):
        soft_frames[x] -= ON if soft_frames[x] != OFF else OFF
        left |= soft_frames[x]
    return left


@kernel
def warm(near, frames, soft_frames):
    left = OFF
    for x in range(soft_frames.shape[0]):
        before = soft_frames[x]
        lower = U8(before - ON) if before != OFF else OFF
        soft_frames[x] = frames if near[x] == STRONG else lower
        left |= soft_frames[x]
    return left


@entry("void(uint8[:,::1], uint8[:,::1], uint8[::1], uint8[::1], uint8[:,::1], uint8[:,::1])")
def take_over(image, mask, touched, table, reference, limits):
    """reference (H, 3 W) = image where mask; limits there = table of the new brightness."""
    width = mask.shape[1]
    for y in range(mask.shape[0]):
        if touched[y] == OFF:
            continue
        row = mask[y]
        x = 0
        while x < width:
            if row[x] == OFF:
                x += 1
                continue
            start = x
            while x < width and row[x] != OFF:
                x += 1
            new, old = image[y, 3 * start : 3 * x], reference[y, 3 * start :]
            for i in range(new.shape[0]):
                old[i] = new[i]
            look_up(new, table, limits[y, start:x])


@kernel
def look_up(row, table, limits):
    # limits (W,) = table of the brightness of row (3 W,), by sixteenths
    for x in range(limits.shape[0]):
        sum_of = np.uint16(row[3 * x]) + np.uint16(2) * np.uint16(row[3 * x + 1])
        limits[x] = table[np.uint16(sum_of + np.uint16(row[3 * x + 2])) >> np.uint16(6)]


@entry("void(uint8[:,::1], uint8[::1], int64, int64, uint8[:,::1])")
def look_up_rows(reference, table, first, step, limits):
    """limits (H, W) = table of the brightness of reference (H, 3 W), in every step-th row."""
    for y in range(first, limits.shape[0], step):
        look_up(reference[y], table, limits[y])
