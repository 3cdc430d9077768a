//! Which packets must be decoded to get the chosen frames, where that can be told from the packets alone.

use std::collections::BTreeMap;

use crate::shared::frames::sample_indices;
use ffmpeg_next::Packet;
use ffmpeg_next::codec::{Id, packet::side_data};

use crate::demux::{Clip, is_discarded};
use crate::h26x::{self, PacketKind};

/// Packets to decode from one entry on, in decoding order.
pub struct Segment {
    /// Indices into the clip's packets; the first is the entry.
    pub packets: Vec<usize>,
    /// Presentation times of the frames that must come out, ascending: those from the entry's own on. Earlier ones lead
    /// the entry and may lack their references.
    pub times: Vec<i64>,
    /// Presentation time and place of each chosen frame.
    pub targets: BTreeMap<i64, usize>,
}

/// The segments that hold `max` evenly spaced frames, or nothing for a clip where packets and frames may not agree, so
/// that only decoding all of it gives the count.
pub fn segments(clip: &Clip, max: u32) -> Option<Vec<Segment>> {
    if clip.packets.len() as u64 <= u64::from(max) || clip.packets.iter().any(is_unusual) {
        return None;
    }
    let kinds = kinds(clip)?;
    let times: Vec<i64> = clip.packets.iter().map(Packet::pts).collect::<Option<_>>()?;
    let mut order: Vec<usize> = (0..times.len()).collect();
    order.sort_by_key(|&packet| times[packet]);
    let is_distinct = order.windows(2).all(|pair| times[pair[0]] < times[pair[1]]);
    if !is_distinct || order[0] != 0 || !kinds[0].is_entry {
        return None;
    }

    let mut targets_of_entry: BTreeMap<usize, BTreeMap<usize, usize>> = BTreeMap::new();
    for (place, index) in sample_indices(times.len() as u64, max).into_iter().enumerate() {
        let target = order[index as usize];
        let entry = (0..=target).rev().find(|&packet| kinds[packet].is_entry && times[packet] <= times[target])?;
        targets_of_entry.entry(entry).or_default().insert(target, place);
    }
    Some(targets_of_entry.into_iter().map(|(entry, targets)| segment(entry, &targets, &kinds, &times)).collect())
}

fn segment(entry: usize, targets: &BTreeMap<usize, usize>, kinds: &[PacketKind], times: &[i64]) -> Segment {
    let last = targets.keys().next_back().copied().unwrap_or(entry);
    let packets: Vec<usize> =
        (entry..=last).filter(|packet| !kinds[*packet].is_droppable || targets.contains_key(packet)).collect();
    let mut expected: Vec<i64> = packets.iter().map(|&packet| times[packet]).collect();
    expected.retain(|&time| time >= times[entry]);
    expected.sort_unstable();
    let targets = targets.iter().map(|(&packet, &place)| (times[packet], place)).collect();
    Segment { packets, times: expected, targets }
}

/// Damaged, hidden by an edit list, empty, or changing the stream's parameters.
fn is_unusual(packet: &Packet) -> bool {
    let changes = |kind| matches!(kind, side_data::Type::NewExtraData | side_data::Type::ParamChange);
    packet.is_corrupt()
        || is_discarded(packet)
        || packet.size() == 0
        || packet.side_data().any(|data| changes(data.kind()))
}

/// What the packets are, for codecs whose packets are one frame each.
fn kinds(clip: &Clip) -> Option<Vec<PacketKind>> {
    let packets = clip.packets.iter();
    let by_flag = |packet: &Packet| Some(PacketKind { is_entry: packet.is_key(), ..PacketKind::default() });
    let kinds: Vec<PacketKind> = match clip.parameters.id() {
        Id::H264 => packets.map(|packet| h26x::h264(packet.data()?)).collect::<Option<_>>()?,
        Id::HEVC => packets.map(|packet| h26x::hevc(packet.data()?)).collect::<Option<_>>()?,
        Id::VP9 | Id::AV1 => packets.map(by_flag).collect::<Option<_>>()?,
        _ => return None,
    };
    // Parameter sets inside the stream hold from where they stand, so every entry must bring its own, or none any.
    let brought = kinds.iter().filter(|kind| kind.has_parameters).count();
    let entries = kinds.iter().filter(|kind| kind.is_entry).count();
    let by_entries = kinds.iter().filter(|kind| kind.is_entry && kind.has_parameters).count();
    (brought == 0 || (brought == by_entries && by_entries == entries)).then_some(kinds)
}
