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
    let mut bytes = 0u64;
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
        if packet.stream() != index {
            continue;
        }
        packets.push(packet);
        let packet = packets.last().ok_or(Refusal::TooMuchMemory)?;
        if packets.len() as u64 > request.max_frames {
            return Err(Refusal::TooManyFrames);
        }
        // An index may name the same bytes again and again.
        bytes += packet.size() as u64;
        if bytes > request.max_bytes.saturating_mul(2) {
            return Err(Refusal::TooMuchMemory);
        }
        if let Some(time) = packet.pts().or(packet.dts()) {
            let seconds = time.saturating_sub(*first_time.get_or_insert(time)) as f64 * unit;
            if seconds > request.max_seconds {
                return Err(Refusal::TooLong { seconds });
            }
        }
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
