"""How many faces are in view, second by second: results of a model on a clip, one a frame."""

import sys
from collections import Counter

import stillframe


def main(source: str = "sample:sports2d_demo", most: int = 90) -> None:
    seen: Counter[int] = Counter()
    network = 0
    for frame, faces in stillframe.stream(source, model="centerface", with_frame=True):
        assert isinstance(faces, stillframe.Detections)
        second = int(frame.time_s)
        seen[second] = max(seen[second], len(faces))
        network += faces.evidence.provenance == "computed"
        if frame.index + 1 >= most:
            break
    for second, count in sorted(seen.items()):
        print(f"second {second}: {count}")
    print(f"{network} of {frame.index + 1} frames met the network")


if __name__ == "__main__":
    main(*sys.argv[1:2])
