//! Which frames of a clip are chosen.

use pcqa::media::sample_indices;
use proptest::prelude::*;

proptest! {
    #[test]
    fn sampled_frames_follow_the_rule(total in 0..u64::MAX / 64, max in 1u32..=16) {
        check_samples(total, max)?;
    }

    #[test]
    fn sampled_frames_of_short_clips_follow_the_rule(total in 0u64..200, max in 1u32..=16) {
        check_samples(total, max)?;
    }
}

fn check_samples(total: u64, max: u32) -> Result<(), TestCaseError> {
    let indices = sample_indices(total, max);
    prop_assert_eq!(indices.len() as u64, total.min(max.into()));
    prop_assert!(indices.windows(2).all(|pair| pair[0] < pair[1]), "ascending and distinct: {:?}", indices);
    prop_assert!(indices.iter().all(|&index| index < total), "in range: {:?}", indices);
    if total > u64::from(max) {
        // The centre of each of `max` equal segments.
        for (segment, &index) in indices.iter().enumerate() {
            let centre = (2 * segment as u128 + 1) * u128::from(total) / (2 * u128::from(max));
            prop_assert_eq!(u128::from(index), centre);
        }
    } else {
        prop_assert_eq!(indices, (0..total).collect::<Vec<_>>());
    }
    Ok(())
}

#[test]
fn sixteen_frames_of_a_minute() {
    // 1,800 frames: the first index is 1800 / 32.
    let indices = sample_indices(1800, 16);
    assert_eq!(indices.first(), Some(&56));
    assert_eq!(indices.last(), Some(&1743));
}
