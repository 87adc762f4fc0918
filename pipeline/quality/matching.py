"""Maximum matching of two sides, such as the boxes of a result and those of its reference."""


def largest_matching(candidates: list[list[int]]) -> list[tuple[int, int]]:
    """Maximum bipartite matching by shortest augmenting paths -> (left, right) pairs.

    candidates: for each left node the right nodes that it may be matched with, the best first.
    """
    match: dict[int, int] = {}  # right node -> left node
    for start in range(len(candidates)):
        reached_from: dict[int, int] = {}  # right node -> left node before it on the path
        matched_to: dict[int, int] = {}  # left node -> right node, of matched nodes on the path
        waiting = [start]
        while waiting:
            left = waiting.pop(0)
            fresh = [right for right in candidates[left] if right not in reached_from]
            reached_from |= dict.fromkeys(fresh, left)
            free = next((right for right in fresh if right not in match), None)
            if free is not None:
                while True:  # back along the path, each left node takes the next right node
                    left = reached_from[free]
                    match[free] = left
                    if left == start:
                        break
                    free = matched_to[left]
                break
            for right in fresh:
                matched_to[match[right]] = right
                waiting.append(match[right])
    return sorted((left, right) for right, left in match.items())
