"""Blur every face of a clip; the copy keeps its timing and its sound."""

import sys
from pathlib import Path

import stillframe


def main(source: str = "sample:sports2d_demo", out: str = "blurred.mp4", most: int = 60) -> None:
    with stillframe.open_source(source) as opened:
        info = opened.info
    sound = source if info.has_audio else None
    with (
        stillframe.VideoSink(Path(out), info=info, audio_from=sound) as video,
        stillframe.Filter(model="centerface", effect="blur", reuse="layer") as hide,
    ):
        for frame in stillframe.frames(source):
            hidden = hide(frame)
            video.write(frame, hide.result, hidden)
            if frame.index + 1 >= most:
                break
    print(f"wrote {out}")


if __name__ == "__main__":
    main(*sys.argv[1:])
