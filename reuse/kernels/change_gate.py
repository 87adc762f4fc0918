"""The passes of the change gate over a picture.

Rows are taken one by one as views, and shifts along a row are views too: an index that could be
negative is not vectorised. Every loop writes one or two arrays, so that the compiler can check that
they do not overlap. Numbers stay in the narrowest type that holds them, by casts after each step,
because NumPy's rules would widen them to 64 bits. A row that equals the reference is passed over.
"""

import numpy as np

from stillframe.reuse.kernels.jit import kernel

BLOCK = 16  # pixels a side
PATCH = 2  # pixels on each side of the middle one
SIDE = 2 * PATCH + 1
REACH = 3 * PATCH  # of a patch to each side, in bytes of a row
PATCH_SHARE = 16 / SIDE**2  # of a pixel's limit, for the mean of the patch around it: see `patch`
ON, OFF = np.uint8(1), np.uint8(0)
STRONG = np.uint8(3)  # of a seed: ON, and worth being held

I16, U8 = np.int16, np.uint8


@kernel
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


@kernel
def differs(image, reference, mask, touched):
    """mask (H, W) = any channel of (H, 3 W) unequal; touched (H,) = any of the row; -> how many."""
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
    # columns += new - old, less what this line of the ring held before
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
def beyond_softly(sizes, limits, held, softness, over):
    # as beyond, and ON where it is held and beyond softness / 256 of the limit
    for x in range(over.shape[0]):
        largest = max(max(sizes[3 * x], sizes[3 * x + 1]), sizes[3 * x + 2])
        soft = U8((np.uint16(limits[x]) * softness) >> np.uint16(8))
        found = STRONG if largest > limits[x] else OFF
        weak = ON if largest > soft else OFF
        over[x] = found | (weak if held[x] != OFF else OFF)


@kernel
def squeeze(over, eroded):
    # eroded[x] = all of over[x - 1 .. x + 1]; the ends stay as they are; -> any
    left, middle, right, inner = over, over[1:], over[2:], eroded[1:]
    found = OFF
    for x in range(over.shape[0] - 2):
        whole = left[x] & middle[x] & right[x]
        inner[x] = whole
        found |= whole
    return found


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
    found = OFF
    for x in range(row.shape[0]):
        found |= row[x]
    return found


@kernel
def find(
    image, reference, limits, held, lively, softness,
    seeds, sown, totals, columns, ring, strip, sizes, over, eroded,
):  # fmt: skip
    """One pass over image and reference (H, 3 W) that finds the seeds of change by patch and pixel.

    limits (H, W): of the largest channel difference. held (H, W), lively (H,): where and in which
    rows the softer limit holds. seeds (H, W), sown (H,): 0, ON or STRONG, and in which rows; the
    other rows of seeds are not written. totals (h, w) int32: differences added up by block. The
    rest is scratch: columns (3 W + 4 PATCH * 3) and strip (3 W) int16, ring (SIDE, 3 W) int16,
    sizes (3 W), over (W) and eroded (4, W) uint8.
    """
    height, width = limits.shape
    clear(columns)
    clear(strip)
    for line in range(SIDE):
        clear(ring[line])
    middle = columns[REACH : REACH + 3 * width]
    a, b, c, d, e = columns, columns[3:], columns[6:], columns[9:], columns[12:]  # SIDE pixels
    moved = 0  # bit k: row y - k differs from the reference
    thick = 0  # bit k: row y - k has pixels beyond their limits, three in a row
    for y in range(height + PATCH):
        signed = ring[y % SIDE]
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
            if lively[centre] != OFF:
                beyond_softly(sizes, limits[centre], held[centre], softness, row)
            else:
                beyond(sizes, limits[centre], row)
            if (thick & 14) == 14:
                join(eroded[(y - 3) % 4], eroded[(y - 2) % 4], eroded[(y - 1) % 4], row)
            sown[centre] = ON if any_on(row) != OFF else OFF


@kernel
def gather(strip, totals):
    # totals (w,) = sums of strip (3 W,) by block; strip starts afresh
    for block in range(totals.shape[0]):
        part = strip[block * 3 * BLOCK : (block + 1) * 3 * BLOCK]
        total = np.int32(0)
        for i in range(part.shape[0]):
            total += np.int32(part[i])
        totals[block] = total
    clear(strip)


@kernel
def has_seed(seeds, sown, top, bottom, left, right):
    found = OFF
    for y in range(top, bottom):
        if sown[y] != OFF:
            found |= any_on(seeds[y, left:right])
    return found != OFF


@kernel
def drift(totals, limit, sweep, seeds, sown):
    """Sow the blocks whose mean difference is beyond the limit; -> whether the light changed.

    That is so where a block without other seeds is beyond the limit, and more than `sweep` of all
    blocks are beyond half of it to the same side. Then half the limit holds for all, so that they
    come in the same frame and, from then on, keep in step.
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


@kernel
def grow(seeds, sown, margin, frames, mask, touched, held, lively, one, other, near):
    """mask (H, W) = seeds grown by a square of `margin` pixels to each side; -> how many.

    touched (H,): rows with any. held (H, W) = frames where STRONG seeds grew, else one less than
    before; lively (H,): rows with any held. near (W,) and one, other (W + 2 margin,) are scratch.
    """
    height, width = mask.shape
    for y in range(height):
        if sown[y] != OFF:
            widen(seeds[y], margin, one, other)
    count = 0
    for y in range(height):
        row = mask[y]
        found = OFF
        for other_y in range(max(y - margin, 0), min(y + margin + 1, height)):
            if sown[other_y] != OFF:
                if found == OFF:
                    clear(near)
                    found = ON
                source = seeds[other_y]
                for x in range(width):
                    near[x] |= source[x]
        touched[y] = found
        if found == OFF:
            clear(row)
            if lively[y] != OFF:
                lively[y] = ON if cool(held[y]) != OFF else OFF
            continue
        total = np.int32(0)
        for x in range(width):
            row[x] = near[x] & ON
            total += np.int32(near[x] & ON)
        count += total
        lively[y] = ON if warm(near, frames, held[y]) != OFF else OFF
    return count


@kernel
def cool(held):
    left = OFF
    for x in range(held.shape[0]):
        held[x] -= ON if held[x] != OFF else OFF
        left |= held[x]
    return left


@kernel
def warm(near, frames, held):
    left = OFF
    for x in range(held.shape[0]):
        before = held[x]
        lower = U8(before - ON) if before != OFF else OFF
        held[x] = frames if near[x] == STRONG else lower
        left |= held[x]
    return left


@kernel
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


@kernel
def look_up_rows(reference, table, first, step, limits):
    """limits (H, W) = table of the brightness of reference (H, 3 W), in every step-th row."""
    for y in range(first, limits.shape[0], step):
        look_up(reference[y], table, limits[y])
