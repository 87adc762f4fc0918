"""The sound of a file, copied packet by packet in step with new pictures."""

import os
from collections.abc import Iterator
from fractions import Fraction

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Discard

from stillframe.errors import SinkError
from stillframe.pipeline.media.address import FILE_PROTOCOLS
from stillframe.pipeline.media.pyav_compat import open_input, to_fraction
from stillframe.pipeline.media.timestamps import TimestampNormalizer
from stillframe.pipeline.sinks.sink import reason

# Sound may lead by what an encoder needs to start up; its packets then belong before time zero.
PRIMING_S = Fraction(1, 10)
NO_TICK = Fraction(1, 48_000)  # only where a stream states no time base
PACKETS_A_SECOND = Fraction(50)  # only where packets state neither time nor duration


class AudioRemuxer:
    """Hands the audio packets of a file to `output`, as far as the pictures have come.

    All its audio streams are copied and none is encoded again. Where the file's times jump, sound
    and pictures each go on where they were.
    Raises SinkError if the file cannot be read or `output` cannot hold its sound.
    """

    def __init__(self, path: str, output: OutputContainer, shown: str) -> None:
        try:
            self._input = open_input(f"file:{path}", FILE_PROTOCOLS)
        except (av.FFmpegError, OSError) as error:
            raise SinkError(
                f"{shown}: the sound of {path} cannot be read: {reason(error)}"
            ) from None
        self._output = output
        self._shown = shown
        self._origin = Fraction(0)
        self._outputs: dict[int, AudioStream] = {}
        self._packets = self._normalized_packets()
        self._next = next(self._packets, None)
        # what the output has no place for is told before any work; its own streams come later
        with av.open(os.devnull, mode="w", format=output.format.name) as trial:
            self._add_streams(trial)

    def start(self, picture_s: Fraction, from_start: bool) -> Fraction:
        """Add the sound to the output, whose video stream is there already.

        Returns the time, in the file's own seconds, that is zero in the output.

        picture_s: that of the first picture. from_start: it is the source's first, so that sound
        which starts well before it belongs to it; otherwise earlier sound is left out.
        """
        self._outputs = self._add_streams(self._output)
        self._origin = picture_s
        while self._next is not None and _seconds(self._next) < picture_s - PRIMING_S:
            if from_start:
                self._origin = _seconds(self._next)
                break
            self._next = next(self._packets, None)
        return self._origin

    def mux_until(self, moment_s: Fraction | None) -> None:
        """Mux what starts before `moment_s` of the output's time; None: all that is left."""
        while (packet := self._next) is not None:
            if moment_s is not None and _seconds(packet) - self._origin >= moment_s:
                return
            self._next = next(self._packets, None)
            shift = round(self._origin / _tick(packet))
            packet.pts = (packet.pts or 0) - shift
            packet.dts = (packet.dts or 0) - shift
            packet.stream = self._outputs[packet.stream.index]
            self._output.mux(packet)

    def close(self) -> None:
        """Free the file that the sound came from."""
        self._packets = iter(())
        self._next = None
        self._input.close()

    def _add_streams(self, output: OutputContainer) -> dict[int, AudioStream]:
        """A stream in `output` for each of the file's, by the file's numbers."""
        if self._next is None:  # a track without packets would keep a muxer waiting
            return {}
        added = {}
        for stream in self._input.streams.audio:
            try:
                copied = output.add_stream_from_template(stream)
            except ValueError:
                raise SinkError(
                    f"{self._shown}: this kind of file cannot hold sound in {stream.name}; "
                    "write .mkv, which can"
                ) from None
            copied.metadata.update(stream.metadata)
            added[stream.index] = copied
        return added

    def _normalized_packets(self) -> "Iterator[Packet[AudioStream]]":
        """The audio packets, each stream's times rising. Damage ends the sound only."""
        sound = tuple(self._input.streams.audio)
        for stream in self._input.streams:
            if stream.type != "audio":
                stream.discard = Discard.all
        timelines = {
            stream.index: TimestampNormalizer(
                to_fraction(stream.time_base) or NO_TICK, PACKETS_A_SECOND
            )
            for stream in sound
        }
        try:
            for packet in self._input.demux(sound) if sound else ():
                if packet.size == 0:
                    continue  # asks a decoder to give what it holds
                dts = packet.dts if packet.dts is not None else packet.pts
                placed, _ = timelines[packet.stream.index].normalize(dts, packet.duration)
                packet.pts = placed + max(0, (packet.pts or 0) - (dts or 0))
                packet.dts = placed
                yield packet
        except (av.FFmpegError, OSError):
            return


def _seconds(packet: "Packet[AudioStream]") -> Fraction:
    return (packet.dts or 0) * _tick(packet)


def _tick(packet: "Packet[AudioStream]") -> Fraction:
    return to_fraction(packet.time_base) or NO_TICK
