//! Decoded frames that are kept as long as there is room: items come in another order every epoch, so that whichever
//! were kept first serve as well as any others, and replacing them would only cost decoding.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::media::Frames;

pub(super) struct Cache {
    /// Most bytes of frames.
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bytes: usize,
    frames: HashMap<usize, Arc<Frames>>,
}

impl Cache {
    pub fn new(capacity: usize) -> Self {
        Self { capacity, state: Mutex::default() }
    }

    pub fn get(&self, index: usize) -> Option<Arc<Frames>> {
        self.lock().frames.get(&index).cloned()
    }

    /// Keeps an item's frames where they fit.
    pub fn offer(&self, index: usize, frames: &Arc<Frames>) {
        let bytes: usize = frames.stacks.iter().map(|stack| stack.rgb.len()).sum();
        let mut state = self.lock();
        if state.bytes + bytes <= self.capacity && !state.frames.contains_key(&index) {
            state.bytes += bytes;
            state.frames.insert(index, frames.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::FrameStack;

    #[test]
    fn it_never_holds_more_than_it_may() {
        let frames = |side: u32| {
            Arc::new(Frames { count: 1, stacks: vec![FrameStack { side, rgb: vec![0; (side * side * 3) as usize] }] })
        };
        let cache = Cache::new(2 * 300);
        for index in 0..3 {
            cache.offer(index, &frames(10));
            cache.offer(index, &frames(10));
        }
        assert_eq!([0, 1, 2].map(|index| cache.get(index).is_some()), [true, true, false]);
        cache.offer(3, &frames(1));
        assert!(cache.get(3).is_none());
    }
}
