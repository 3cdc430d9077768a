//! A file to the packets of its video stream, all of them, in memory: they are no larger than the file, and decoding can
//! then start anywhere without trusting a container's index.

use std::fs::File;

use crate::shared::protocol::{Refusal, Request};
use ffmpeg_next::codec::Parameters;
use ffmpeg_next::codec::packet::side_data;
use ffmpeg_next::format::context::{Input, StreamIo};
use ffmpeg_next::format::stream::Disposition;
use ffmpeg_next::{Dictionary, Error, Packet, Rational, Stream, format, media};

use crate::ffi;
use crate::orientation::Orientation;

/// FFmpeg's names of the demuxers that may run; any other would read playlists, text and what not.
const DEMUXERS: &str = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif";

/// FFmpeg's names of the decoders that may run.
pub const DECODERS: &str = "h264,hevc,vp8,vp9,libdav1d,libaom-av1,av1,mpeg4,mjpeg,gif";

/// Most packets of other streams: those of a long clip with a dozen soundtracks.
const MAX_OTHER_PACKETS: u64 = 1 << 20;

const IO_BUFFER: usize = 256 << 10;

/// A demuxed video stream.
pub struct Clip {
    /// Packets in decoding order.
    pub packets: Vec<Packet>,
    /// How to decode them.
    pub parameters: Parameters,
    /// Unit of their times.
    pub time_base: Rational,
    /// How to turn the frames.
    pub orientation: Orientation,
}

/// Reads all packets of the video stream, within the limits.
pub fn read(video: File, request: &Request) -> Result<Clip, Refusal> {
    let mut input = open(video)?;
    let header_seconds = input.duration() as f64 / f64::from(ffmpeg_next::ffi::AV_TIME_BASE);
    if header_seconds > request.max_seconds {
        return Err(Refusal::TooLong { seconds: header_seconds });
    }
    let stream = choose_stream(&input).ok_or(Refusal::NoVideoStream)?;
    if u64::try_from(stream.frames()).is_ok_and(|frames| frames > request.max_frames) {
        return Err(Refusal::TooManyFrames);
    }
    let index = stream.index();
    let time_base = stream.time_base();
    let orientation = orientation(&stream);
    let parameters = stream.parameters();
    let packets = read_packets(&mut input, index, f64::from(time_base), request)?;
    if packets.is_empty() {
        return Err(Refusal::corrupt("the video stream is empty"));
    }
    Ok(Clip { packets, parameters, time_base, orientation })
}

fn open(video: File) -> Result<Input, Refusal> {
    let mut options = Dictionary::new();
    options.set("format_whitelist", DEMUXERS);
    options.set("protocol_whitelist", "none");
    options.set("codec_whitelist", DECODERS);
    let io = StreamIo::from_read_seek_with_capacity(video, IO_BUFFER).map_err(refusal)?;
    format::input_from_stream(io, None, Some(options)).map_err(refusal)
}

/// The largest stream of those marked as default, else the largest; cover art is none.
fn choose_stream(input: &Input) -> Option<Stream<'_>> {
    let pixels = |stream: &Stream<'_>| {
        let codec = ffmpeg_next::codec::Context::from_parameters(stream.parameters()).ok()?;
        let video = codec.decoder().0;
        crate::ffi::dimensions(&video).map(|(width, height)| u64::from(width) * u64::from(height))
    };
    let mut best: Option<((bool, u64), Stream<'_>)> = None;
    for stream in input.streams() {
        let is_video = stream.parameters().medium() == media::Type::Video;
        if !is_video || stream.disposition().contains(Disposition::ATTACHED_PIC) {
            continue;
        }
        let rank = (stream.disposition().contains(Disposition::DEFAULT), pixels(&stream).unwrap_or(0));
        if best.as_ref().is_none_or(|(best, _)| rank > *best) {
            best = Some((rank, stream));
        }
    }
    best.map(|(_, stream)| stream)
}

fn orientation(stream: &Stream<'_>) -> Orientation {
    stream
        .side_data()
        .find(|data| data.kind() == side_data::Type::DisplayMatrix)
        .map(|data| Orientation::from_display_matrix(data.data()))
        .unwrap_or_default()
}

fn read_packets(input: &mut Input, index: usize, unit: f64, request: &Request) -> Result<Vec<Packet>, Refusal> {
    let mut packets: Vec<Packet> = Vec::new();
    let mut budget = Budget::new(request);
    let mut first_time = None;
    loop {
        let mut packet = Packet::empty();
        match packet.read(input) {
            Ok(()) => {}
            Err(Error::Eof) => return Ok(packets),
            // ffmpeg's command line takes any other error for the end of the file as well.
            Err(Error::InvalidData) => return Ok(packets),
            Err(error) => return Err(refusal(error)),
        }
        let is_video = packet.stream() == index;
        budget.spend(is_video, packet.size() as u64)?;
        if !is_video {
            continue;
        }
        packets.push(packet);
        let packet = packets.last().ok_or(Refusal::TooMuchMemory)?;
        if let Some(time) = packet.pts().or(packet.dts()) {
            let seconds = time.saturating_sub(*first_time.get_or_insert(time)) as f64 * unit;
            if seconds > request.max_seconds {
                return Err(Refusal::TooLong { seconds });
            }
        }
    }
}

/// What reading may still cost. Packets of every stream count: an index may name the same bytes, or none, again and
/// again.
struct Budget {
    bytes: u64,
    frames: u64,
    others: u64,
}

impl Budget {
    fn new(request: &Request) -> Self {
        let bytes = request.max_bytes.saturating_mul(2);
        Self { bytes, frames: request.max_frames, others: MAX_OTHER_PACKETS }
    }

    fn spend(&mut self, is_video: bool, bytes: u64) -> Result<(), Refusal> {
        if is_video {
            self.frames = self.frames.checked_sub(1).ok_or(Refusal::TooManyFrames)?;
        } else {
            let too_many = || Refusal::corrupt(format!("more than {MAX_OTHER_PACKETS} packets beside the video's"));
            self.others = self.others.checked_sub(1).ok_or_else(too_many)?;
        }
        let repeated = || Refusal::corrupt("its packets hold more than twice the bytes that a file may have");
        self.bytes = self.bytes.checked_sub(bytes).ok_or_else(repeated)?;
        Ok(())
    }
}

/// An FFmpeg error as a refusal.
pub fn refusal(error: Error) -> Refusal {
    match error {
        Error::Other { errno: libc::ENOMEM } => Refusal::TooMuchMemory,
        error => Refusal::corrupt(error.to_string()),
    }
}

/// Whether the demuxer wants the packet decoded but not shown.
pub fn is_discarded(packet: &Packet) -> bool {
    ffi::is_discarded(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Budget {
        let (max_bytes, max_pixels, max_seconds) = (100, 1, 1.0);
        Budget::new(&Request {
            number: 1,
            sides: vec![1],
            max_bytes,
            max_pixels,
            max_seconds,
            max_frames: 3,
            max_frames_used: 1,
        })
    }

    #[test]
    fn every_stream_pays_for_its_bytes() {
        for is_video in [true, false] {
            let mut budget = budget();
            assert_eq!(budget.spend(!is_video, 150), Ok(()));
            assert_eq!(budget.spend(is_video, 50), Ok(()));
            assert!(matches!(budget.spend(is_video, 1), Err(Refusal::Corrupt { .. })));
        }
    }

    #[test]
    fn packets_without_bytes_are_counted() {
        let mut budget = budget();
        (0..MAX_OTHER_PACKETS).for_each(|_| assert_eq!(budget.spend(false, 0), Ok(())));
        assert!(matches!(budget.spend(false, 0), Err(Refusal::Corrupt { .. })));
        (0..3).for_each(|_| assert_eq!(budget.spend(true, 0), Ok(())));
        assert_eq!(budget.spend(true, 0), Err(Refusal::TooManyFrames));
    }
}
