//! The loss scale of fp16, as in PyTorch's GradScaler: doubled after many good steps, halved after a bad one.

use crate::train::checkpoint::LossScale;

const FIRST: f64 = 65536.0;
/// Good steps in a row after which it doubles.
const GROWTH_STEPS: u32 = 2000;

/// That of a run's first step.
pub(super) fn first() -> LossScale {
    LossScale { scale: FIRST, good: 0 }
}

/// After a step whose gradients were finite.
pub(super) fn grow(scale: &mut LossScale) {
    scale.good += 1;
    if scale.good == GROWTH_STEPS {
        *scale = LossScale { scale: scale.scale * 2.0, good: 0 };
    }
}

/// After a step whose gradients were not, and which was left out; whether a smaller scale may still help.
pub(super) fn shrink(scale: &mut LossScale) -> bool {
    *scale = LossScale { scale: scale.scale / 2.0, good: 0 };
    scale.scale >= 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_after_good_steps_in_a_row_only() {
        let mut scale = first();
        (1..GROWTH_STEPS).for_each(|_| grow(&mut scale));
        assert_eq!(scale, LossScale { scale: FIRST, good: GROWTH_STEPS - 1 });
        assert!(shrink(&mut scale));
        assert_eq!(scale, LossScale { scale: FIRST / 2.0, good: 0 });
        (0..GROWTH_STEPS).for_each(|_| grow(&mut scale));
        assert_eq!(scale, LossScale { scale: FIRST, good: 0 });
    }

    #[test]
    fn it_is_given_up_below_one() {
        let mut scale = first();
        let halvings = (0..100).take_while(|_| shrink(&mut scale)).count();
        assert_eq!(halvings, 16);
    }
}
