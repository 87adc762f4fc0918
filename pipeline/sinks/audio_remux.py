"""Copies the audio of a file, packet by packet, next to newly encoded video."""

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
from stillframe.pipeline.media.decoder import jump_ahead_s
from stillframe.pipeline.media.pyav_compat import open_input, to_fraction
from stillframe.pipeline.media.timestamps import TimestampNormalizer
from stillframe.pipeline.sinks.sink import reason

# Audio may start before the video by an encoder's priming; its packets then have negative times.
PRIMING_S = Fraction(1, 10)
DEFAULT_TIME_BASE = Fraction(1, 48_000)  # for streams that state none
DEFAULT_PACKET_RATE = Fraction(50)  # for packets with neither time nor duration


class AudioRemuxer:
    """Muxes the audio packets of a file into `output`, up to the time of the last picture.

    Copies all audio streams without re-encoding. Where the file's times jump, audio and video each
    continue where they were. Raises SinkError if the file cannot be read or `output` cannot hold
    its audio.
    """

    def __init__(self, path: str, output: OutputContainer, shown: str) -> None:
        try:
            self._input = open_input(f"file:{path}", FILE_PROTOCOLS)
        except (av.FFmpegError, OSError) as error:
            raise SinkError(
                f"{shown}: the audio of {path} cannot be read: {reason(error)}"
            ) from None
        self._output = output
        self._shown = shown
        self._origin = Fraction(0)
        self._outputs: dict[int, AudioStream] = {}
        self._packets = self._normalized_packets()
        self._next = next(self._packets, None)
        # a trial run: raise for unsupported audio before any work is done
        with av.open(os.devnull, mode="w", format=output.format.name) as trial:
            self._add_streams(trial)

    def start(self, picture_s: Fraction, from_start: bool) -> Fraction:
        """Add the audio streams to the output, after its video stream.

        -> the time in the file's seconds that is zero in the output. picture_s: the time of the
        first picture. from_start: it is the first of the source, so audio that starts well before
        it is kept; otherwise earlier audio is dropped.
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
        """Mux the packets that start before `moment_s` in the output's time; None: all the rest."""
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
        """Close the file that the audio comes from."""
        self._packets = iter(())
        self._next = None
        self._input.close()

    def _add_streams(self, output: OutputContainer) -> dict[int, AudioStream]:
        """Source stream index -> the stream added to `output` for it."""
        if self._next is None:  # a track without packets would keep the muxer waiting
            return {}
        streams = {}
        for stream in self._input.streams.audio:
            try:
                copied = output.add_stream_from_template(stream)
            except ValueError:
                raise SinkError(
                    f"{self._shown}: this kind of file cannot hold audio in {stream.name}; "
                    "write .mkv, which can"
                ) from None
            copied.metadata.update(stream.metadata)
            streams[stream.index] = copied
        return streams

    def _normalized_packets(self) -> "Iterator[Packet[AudioStream]]":
        """The audio packets, with rising times in each stream. Damage ends only the audio."""
        audio = tuple(self._input.streams.audio)
        for stream in self._input.streams:
            if stream.type != "audio":
                stream.discard = Discard.all
        normalizers = {
            stream.index: TimestampNormalizer(
                to_fraction(stream.time_base) or DEFAULT_TIME_BASE,
                DEFAULT_PACKET_RATE,
                jump_ahead_s(self._input),
            )
            for stream in audio
        }
        try:
            for packet in self._input.demux(audio) if audio else ():
                if packet.size == 0:
                    continue  # a flush packet
                dts = packet.dts if packet.dts is not None else packet.pts
                new_dts, _ = normalizers[packet.stream.index].normalize(dts, packet.duration)
                packet.pts = new_dts + max(0, (packet.pts or 0) - (dts or 0))
                packet.dts = new_dts
                yield packet
        except (av.FFmpegError, OSError):
            return


def _seconds(packet: "Packet[AudioStream]") -> Fraction:
    return (packet.dts or 0) * _tick(packet)


def _tick(packet: "Packet[AudioStream]") -> Fraction:
    return to_fraction(packet.time_base) or DEFAULT_TIME_BASE
