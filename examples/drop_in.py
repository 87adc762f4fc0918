"""Code written for onnxruntime.InferenceSession, with one line changed."""

import numpy as np
from numpy.typing import NDArray

import stillframe


def main(frames: int = 5) -> None:
    model = stillframe.load("centerface").for_source(288, 480)
    session = stillframe.ReuseSession(model.path)  # was: onnxruntime.InferenceSession(model.path)
    name = session.get_inputs()[0].name

    picture: NDArray[np.float32] = np.full((1, 3, *model.size), 90, np.float32)
    for number in range(frames):
        picture[..., 40:80, 20 * number : 20 * number + 40] = 10 * number
        outputs = session.run(None, {name: picture})
        print(number, [output.shape for output in outputs])


if __name__ == "__main__":
    main()
