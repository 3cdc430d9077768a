//! The little of H.264 and HEVC that frame choice must know: which packets decoding can start at, which ones nothing
//! refers to, and which ones carry parameter sets. Packets are read as 4-byte length-prefixed NAL units, as MP4 and
//! Matroska hold them; anything else counts as unknown.

/// What one packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PacketKind {
    /// Decoding can start here.
    pub is_entry: bool,
    /// No other picture refers to this one, and it carries nothing else that decoding needs.
    pub is_droppable: bool,
    /// It carries parameter sets.
    pub has_parameters: bool,
}

/// Reads an H.264 packet. Entries are IDR pictures alone: behind other key frames, references may reach further back.
pub fn h264(packet: &[u8]) -> Option<PacketKind> {
    let mut kind = PacketKind { is_entry: false, is_droppable: true, has_parameters: false };
    let mut pictures = 0;
    for unit in nal_units(packet)? {
        let header = *unit.first()?;
        match header & 0x1f {
            5 => {
                kind.is_entry = true;
                pictures += 1;
            }
            1 => pictures += 1,
            // Supplemental information, delimiters, filler.
            6 | 9 | 12 => continue,
            7 | 8 | 13 | 15 => kind.has_parameters = true,
            _ => {}
        }
        kind.is_droppable &= header & 0x1f == 1 && header >> 5 == 0;
    }
    (pictures > 0).then_some(kind)
}

/// Reads an HEVC packet. None is droppable: a picture that its own temporal layer does not refer to may serve a higher
/// one.
pub fn hevc(packet: &[u8]) -> Option<PacketKind> {
    let mut kind = PacketKind::default();
    let mut pictures = 0;
    for unit in nal_units(packet)? {
        match (*unit.first()? >> 1) & 0x3f {
            16..=21 => {
                kind.is_entry = true;
                pictures += 1;
            }
            0..=31 => pictures += 1,
            32..=34 => kind.has_parameters = true,
            _ => {}
        }
    }
    (pictures > 0).then_some(kind)
}

/// The units, or nothing where the lengths do not add up to the packet.
fn nal_units(packet: &[u8]) -> Option<Vec<&[u8]>> {
    let mut units = Vec::new();
    let mut rest = packet;
    while !rest.is_empty() {
        let (length, tail) = rest.split_first_chunk()?;
        let (unit, tail) = tail.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        units.push(unit);
        rest = tail;
    }
    Some(units)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(headers: &[u8]) -> Vec<u8> {
        headers.iter().flat_map(|&header| [0, 0, 0, 2, header, 0xff]).collect()
    }

    #[test]
    fn only_idr_pictures_are_h264_entries() {
        assert!(h264(&packet(&[0x65])).is_some_and(|kind| kind.is_entry));
        assert!(h264(&packet(&[0x06, 0x61])).is_some_and(|kind| !kind.is_entry));
    }

    #[test]
    fn unreferenced_h264_pictures_are_droppable_unless_they_carry_parameters() {
        assert!(h264(&packet(&[0x06, 0x01, 0x01])).is_some_and(|kind| kind.is_droppable));
        assert!(h264(&packet(&[0x68, 0x01])).is_some_and(|kind| !kind.is_droppable && kind.has_parameters));
        assert!(h264(&packet(&[0x01, 0x41])).is_some_and(|kind| !kind.is_droppable));
    }

    #[test]
    fn lengths_that_do_not_add_up_are_unknown() {
        let mut annex_b = vec![0, 0, 0, 1];
        annex_b.extend([0x65, 1, 2, 3]);
        assert_eq!(h264(&annex_b), None);
        assert_eq!(hevc(&[0, 0, 0, 9, 0x26]), None);
        assert_eq!(h264(&[]), None);
    }

    #[test]
    fn hevc_random_access_pictures_are_entries() {
        for (nal_type, is_entry) in [(1u8, false), (19, true), (20, true), (21, true)] {
            assert_eq!(hevc(&packet(&[nal_type << 1])).map(|kind| kind.is_entry), Some(is_entry), "type {nal_type}");
        }
    }
}
