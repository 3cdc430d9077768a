//! Packets to the chosen frames.
//!
//! The frames are those that decoding the whole clip would give at the chosen indices. Where the packets tell enough,
//! only the parts of the clip that lead to a chosen frame are decoded (`plan.rs`), and every one of those parts must
//! give exactly the frames that it should; at the first disagreement the whole clip is decoded after all.

use crate::shared::frames::sample_indices;
use crate::shared::protocol::{Refusal, Request};
use ffmpeg_next::codec::{self, threading};
use ffmpeg_next::{Dictionary, Error, Packet, decoder, frame};

use crate::convert::Converter;
use crate::demux::{Clip, DECODERS, refusal};
use crate::frames::ChosenFrames;
use crate::plan::{self, Segment};

/// Decodes the clip's evenly spaced frames, at most `request.max_frames_used`.
pub fn choose(clip: &Clip, request: &Request) -> Result<ChosenFrames, Refusal> {
    let mut decoder = Decoder::open(clip, request)?;
    if let Some(segments) = plan::segments(clip, request.max_frames_used)
        && let Some(chosen) = by_segments(&mut decoder, clip, &segments, request)?
    {
        return Ok(chosen);
    }
    in_full(clip, request)
}

/// Decodes the segments; nothing where one of them does not give what it should.
fn by_segments(
    decoder: &mut Decoder,
    clip: &Clip,
    segments: &[Segment],
    request: &Request,
) -> Result<Option<ChosenFrames>, Refusal> {
    let count = segments.iter().map(|segment| segment.targets.len()).sum();
    let mut chosen = ChosenFrames::new(count, &request.sides);
    let mut converter = Converter::new(clip.orientation);
    for segment in segments {
        let mut times = Vec::with_capacity(segment.times.len());
        let mut take = |frame: &frame::Video| {
            let Some(time) = frame.pts().filter(|time| Some(time) >= segment.times.first()) else { return Ok(()) };
            times.push(time);
            if let Some(&place) = segment.targets.get(&time) {
                chosen.put(place, &converter.convert(frame)?);
            }
            Ok(())
        };
        let packets = segment.packets.iter().filter_map(|&packet| clip.packets.get(packet));
        let is_clean = decoder.decode(packets, &mut take)?;
        if !is_clean || times != segment.times {
            return Ok(None);
        }
    }
    Ok(chosen.is_complete().then_some(chosen))
}

/// Decodes everything, guessing first that every packet is a frame; a second time where the count was another.
fn in_full(clip: &Clip, request: &Request) -> Result<ChosenFrames, Refusal> {
    let mut total = clip.packets.len() as u64;
    for _ in 0..2 {
        let targets = sample_indices(total, request.max_frames_used);
        let mut chosen = ChosenFrames::new(targets.len(), &request.sides);
        let mut converter = Converter::new(clip.orientation);
        let mut count = 0u64;
        let mut take = |frame: &frame::Video| {
            if let Ok(place) = targets.binary_search(&count) {
                chosen.put(place, &converter.convert(frame)?);
            }
            count += 1;
            if count > request.max_frames { Err(Refusal::TooManyFrames) } else { Ok(()) }
        };
        let is_clean = Decoder::open(clip, request)?.decode(clip.packets.iter(), &mut take)?;
        if count == 0 {
            return Err(Refusal::corrupt("no frame could be decoded"));
        }
        // Small damage is concealed as players do; what is left of a ruin is no longer the clip that was asked about.
        let packets = clip.packets.len() as u64;
        if !is_clean && count * 2 < packets {
            return Err(Refusal::corrupt(format!("only {count} of {packets} frames could be decoded")));
        }
        if count == total {
            return Ok(chosen);
        }
        total = count;
    }
    Err(Refusal::corrupt("decoding twice gave different numbers of frames"))
}

/// A codec and the limits of its frames.
struct Decoder {
    video: decoder::Video,
    max_pixels: u64,
}

impl Decoder {
    fn open(clip: &Clip, request: &Request) -> Result<Self, Refusal> {
        let mut context = codec::Context::from_parameters(clip.parameters.clone()).map_err(refusal)?;
        context.set_threading(threading::Config::count(1));
        let mut decoder = context.decoder();
        decoder.set_packet_time_base(clip.time_base);
        let mut options = Dictionary::new();
        options.set("codec_whitelist", DECODERS);
        // The codec counts whole blocks; the exact check is on the frames.
        options.set("max_pixels", &request.max_pixels.saturating_mul(2).min(i32::MAX as u64).to_string());
        let id = decoder.id();
        let video = decoder::find(id)
            .ok_or(Error::DecoderNotFound)
            .and_then(|codec| decoder.open_as_with(codec, options)?.video())
            .map_err(|error| Refusal::corrupt(format!("codec {} cannot be opened ({error})", id.name())))?;
        let decoder = Self { video, max_pixels: request.max_pixels };
        decoder.check_size(decoder.video.width(), decoder.video.height())?;
        Ok(decoder)
    }

    /// Decodes the packets as one stream from its start to its end and hands every frame on in presentation order.
    /// True when nothing was damaged.
    fn decode<'a>(
        &mut self,
        packets: impl Iterator<Item = &'a Packet>,
        take: &mut dyn FnMut(&frame::Video) -> Result<(), Refusal>,
    ) -> Result<bool, Refusal> {
        let mut is_clean = true;
        for packet in packets {
            // A damaged packet costs its own frame at most, as on ffmpeg's command line.
            is_clean &= survives(self.video.send_packet(packet))?;
            is_clean &= self.receive(take)?;
        }
        is_clean &= survives(self.video.send_eof())?;
        is_clean &= self.receive(take)?;
        self.video.flush();
        Ok(is_clean)
    }

    fn receive(&mut self, take: &mut dyn FnMut(&frame::Video) -> Result<(), Refusal>) -> Result<bool, Refusal> {
        let mut frame = frame::Video::empty();
        let mut is_clean = true;
        loop {
            match self.video.receive_frame(&mut frame) {
                Ok(()) => {
                    self.check_size(frame.width(), frame.height())?;
                    is_clean &= !frame.is_corrupt() && !frame.has_decode_errors();
                    take(&frame)?;
                }
                Err(Error::Eof | Error::Other { errno: libc::EAGAIN }) => return Ok(is_clean),
                Err(error) => return survives(Err(error)),
            }
        }
    }

    fn check_size(&self, width: u32, height: u32) -> Result<(), Refusal> {
        match u64::from(width) * u64::from(height) {
            pixels if pixels > self.max_pixels => Err(Refusal::TooManyPixels { width, height }),
            _ => Ok(()),
        }
    }
}

/// False for damage that decoding goes on after.
fn survives(outcome: Result<(), Error>) -> Result<bool, Refusal> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error @ Error::Other { errno: libc::ENOMEM }) => Err(refusal(error)),
        Err(_) => Ok(false),
    }
}
